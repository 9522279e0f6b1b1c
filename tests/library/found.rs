//! Model directories as they are found: what is opened of them, and what is said about it.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::{Checkpoint, CheckpointError, NotLinear, Remark};
use welore_burn::model::{
    LoadError, TokenMatrix, Unfamiliar, nearest_model_type, open_found, open_model, open_weights,
};
use welore_burn::modules::MatrixName;

use crate::{checkpoint, device, fixture};

/// A directory with these tensors, of zeros, and this configuration.
pub fn model(tensors: &[(&str, Dtype, &[usize])], config: Option<&str>) -> TempDir {
    let dir = tempdir().unwrap();
    let of = |(_, dtype, shape): &(&str, Dtype, &[usize])| {
        vec![0u8; shape.iter().product::<usize>() * dtype.bitsize() / 8]
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(of).collect();
    let views = tensors.iter().zip(&data).map(|((name, dtype, shape), data)| {
        (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    if let Some(config) = config {
        fs::write(dir.path().join("config.json"), config).unwrap();
    }
    dir
}

const BERT: [(&str, Dtype, &[usize]); 6] = [
    ("bert.embeddings.word_embeddings.weight", Dtype::F32, &[16, 4]),
    ("bert.embeddings.position_ids", Dtype::I64, &[1, 8]),
    ("bert.encoder.layer.0.attention.self.query.weight", Dtype::F32, &[4, 4]),
    ("bert.encoder.layer.0.attention.self.query.bias", Dtype::F32, &[4]),
    ("cls.predictions.decoder.weight", Dtype::F32, &[16, 4]),
    ("conv.weight", Dtype::F32, &[4, 4, 3, 3]),
];

#[test]
fn linear_layers_are_told_by_name_and_shape_and_the_rest_with_the_reason() {
    let dir = model(&BERT, None);
    let layers = Checkpoint::open(dir.path()).unwrap().linear_layers(&[]);
    assert_eq!(layers.names, [MatrixName::new("bert.encoder.layer.0.attention.self.query")]);
    let left_out = layers.left_out.iter().map(|(name, why)| (name.as_str(), *why));
    let wanted = [
        ("bert.embeddings.position_ids", NotLinear::Integers),
        ("bert.embeddings.word_embeddings", NotLinear::Embedding),
        ("cls.predictions.decoder", NotLinear::Head),
        ("conv", NotLinear::Dimensions),
    ];
    assert_eq!(left_out.collect::<Vec<_>>(), wanted);
}

#[test]
fn factors_of_rank_0_are_refused_wherever_a_directory_is_opened() {
    let tensors =
        [("a.V.weight", Dtype::F32, &[0, 3][..]), ("a.U.weight", Dtype::F32, &[4, 0][..])];
    let dir = model(&tensors, None);
    let error = Checkpoint::open(dir.path()).unwrap().compressed_matrices().unwrap_err();
    assert!(matches!(&error, CheckpointError::Form { matrix, .. } if matrix.as_str() == "a"));
    assert!(error.to_string().contains("factors of rank 0"), "{error}");
    assert!(matches!(open_found(dir.path(), &device()), Err(LoadError::Checkpoint(_))));
}

#[test]
fn a_model_is_unfamiliar_for_one_of_these_reasons() {
    let why = |config| {
        let found = open_found(model(&BERT, config).path(), &device()).unwrap();
        assert!(found.familiar().is_none());
        found.unfamiliar().unwrap().why.clone()
    };
    assert_eq!(why(None), Unfamiliar::NoConfig);
    assert_eq!(why(Some("{}")), Unfamiliar::NoModelType);
    let bert = r#"{"model_type": "bert"}"#;
    assert_eq!(why(Some(bert)), Unfamiliar::ModelType("bert".into()));
    for broken in ["[]", "{", r#"{"model_type": "llama"}"#] {
        let error = open_found(model(&BERT, Some(broken)).path(), &device()).unwrap_err();
        assert!(matches!(error, LoadError::Config { .. }), "{error}");
    }
    assert!(open_found(fixture("tiny-llama"), &device()).unwrap().familiar().is_some());
    for (model_type, nearest) in [
        ("qwen2x", Some("qwen2")),
        ("lama", Some("llama")),
        ("LLAMA", Some("llama")),
        ("bert", None),
    ] {
        assert_eq!(nearest_model_type(model_type), nearest, "{model_type}");
    }
    let said = Unfamiliar::ModelType("bert".into()).to_string();
    assert_eq!(said, "model_type `bert` is not supported");
}

/// A model that classifies has the body of a known decoder, whatever its family calls the head that it
/// lacks.
#[test]
fn a_known_body_with_another_head_is_compressed_by_its_weights() {
    for name in ["tiny-phi3", "tiny-neox"] {
        let (files, dir) = (checkpoint(name), fixture(name));
        let renamed = |tensor| match TokenMatrix::of(tensor) {
            Some(TokenMatrix::Head) => "score.weight",
            _ => tensor,
        };
        let tensors: Vec<(&str, Dtype, &[usize])> = files
            .names()
            .map(|tensor| {
                let meta = files.meta(tensor).unwrap();
                (renamed(tensor), meta.dtype, meta.shape.as_slice())
            })
            .collect();
        let config = fs::read_to_string(dir.join("config.json")).unwrap();
        let found = open_found(model(&tensors, Some(&config)).path(), &device()).unwrap();
        assert_eq!(found.unfamiliar().unwrap().why, Unfamiliar::OtherHead, "{name}");
    }
}

/// A model of which only what is below a name was saved.
fn saved_alone(fixture_name: &str, above: &str) -> TempDir {
    let files = checkpoint(fixture_name);
    let bodies = files.names().filter_map(|name| Some((name, name.strip_prefix(above)?)));
    let tensors: Vec<(&str, Dtype, &[usize])> = bodies
        .map(|(name, inner)| {
            let meta = files.meta(name).unwrap();
            (inner, meta.dtype, meta.shape.as_slice())
        })
        .collect();
    let config = fs::read_to_string(fixture(fixture_name).join("config.json")).unwrap();
    model(&tensors, Some(&config))
}

/// Its body has two names, one within the other, and its head is the embedding.
#[test]
fn opt_without_its_head_is_opened() {
    let dir = saved_alone("tiny-opt", "model.");
    let (from, to) = ("decoder.".into(), "model.decoder.".into());
    let opened = open_model(dir.path(), &device()).unwrap();
    assert_eq!(opened.checkpoint.remarks(), [Remark::Renamed { from, to }]);
    assert!(open_model(fixture("tiny-opt"), &device()).unwrap().checkpoint.remarks().is_empty());
}

/// Sizes in a hostile file must not make a norm for each of a million heads.
#[test]
fn a_head_without_its_norm_is_named() {
    let files = checkpoint("tiny-stablelm-heads");
    let tensors: Vec<(&str, Dtype, &[usize])> = files
        .names()
        .map(|name| {
            let meta = files.meta(name).unwrap();
            (name, meta.dtype, meta.shape.as_slice())
        })
        .collect();
    let config = fs::read_to_string(fixture("tiny-stablelm-heads/config.json")).unwrap();
    let config = config
        .replace("\"num_attention_heads\": 4", "\"head_dim\": 8, \"num_attention_heads\": 16");
    let error = open_model(model(&tensors, Some(&config)).path(), &device()).unwrap_err();
    assert!(error.to_string().contains("q_layernorm.norms.4.weight"), "{error}");
}

#[test]
fn gpt_neox_without_its_head_has_the_names_of_its_family() {
    let dir = saved_alone("tiny-neox", "gpt_neox.");
    let renamed = open_weights(dir.path()).unwrap();
    assert!(renamed.names().all(|name| name.starts_with("gpt_neox.")));
    let found = open_found(dir.path(), &device()).unwrap();
    assert_eq!(found.unfamiliar().unwrap().why, Unfamiliar::OtherHead);
}

/// Names that would be one after their prefixes went are left as they are.
#[test]
fn two_models_in_one_file_are_not_made_one() {
    let both = [
        ("module.model.layers.0.mlp.up_proj.weight", Dtype::F32, &[2, 2][..]),
        ("model.layers.0.mlp.up_proj.weight", Dtype::F32, &[2, 2][..]),
    ];
    let config = fs::read_to_string(fixture("tiny-llama/config.json")).unwrap();
    let error = open_model(model(&both, Some(&config)).path(), &device()).unwrap_err();
    assert!(matches!(error, LoadError::Checkpoint(_)), "{error}");
}

fn codes(tensors: &[(&str, Dtype, &[usize])], config: &str) -> Result<Checkpoint, CheckpointError> {
    let dir = model(tensors, Some(config));
    Checkpoint::open(dir.path() as &Path)
}

#[test]
fn numbers_of_8_bits_have_the_size_of_bf16_and_no_scales_among_the_tensors() {
    let config = json!({ "quantization_config": { "weight_block_size": [2, 3] } }).to_string();
    let tensors = [
        ("a.weight", Dtype::F8_E4M3, &[3, 5][..]),
        ("a.weight_scale_inv", Dtype::F32, &[2, 2][..]),
        ("b.weight", Dtype::BF16, &[2][..]),
    ];
    let checkpoint = codes(&tensors, &config).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    assert_eq!(checkpoint.remarks(), [Remark::Scaled { tensors: 1 }]);
    assert_eq!(checkpoint.meta("a.weight").unwrap().dtype, Dtype::BF16);
    assert_eq!((checkpoint.bytes(), checkpoint.stored_bytes()), (30 + 4, 15 + 16 + 4));
    assert_eq!(checkpoint.parameters(), 17);
    let (_, content) = checkpoint.content("a.weight").unwrap();
    assert_eq!((content.len(), checkpoint.raw("a.weight").unwrap().1.len()), (30, 15));
    // The usual blocks are larger, so that there would be one scale.
    let error = codes(&tensors, "{}").unwrap_err();
    assert!(matches!(error, CheckpointError::Scales { .. }), "{error}");
    let error = codes(&tensors[..1], &config).unwrap_err();
    assert!(matches!(error, CheckpointError::Unscaled { .. }), "{error}");
}
