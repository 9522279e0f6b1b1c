//! LoRA adapters as files of llama.cpp.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::architectures::{self, Known};
use super::error::GgufError;
use super::export::GgufWritten;
use super::keys;
use super::names::{Entry, entries};
use crate::adapters::{AdapterError, LoraAdapter, LoraMatrix};
use crate::ggml::{GgufLayout, GgufTensorSpec, GgufWriter, TensorType, Value};
use crate::model::OpenedModel;
use crate::modules::MatrixName;

/// The tensors of the matrix of a file.
struct Adapted<'a> {
    entry: Entry,
    matrix: &'a LoraMatrix,
}

/// An adapter of a model, ready to be written.
struct Outgoing<'a> {
    architecture: Known,
    alpha: f64,
    layout: GgufLayout,
    tensors: Vec<Adapted<'a>>,
}

impl Adapted<'_> {
    /// The names and shapes of both tensors, row-major.
    fn specs(&self) -> [GgufTensorSpec; 2] {
        let (rank, [outputs, inputs]) = (self.matrix.rank(), self.matrix.shape());
        [("lora_a", [rank, inputs]), ("lora_b", [outputs, rank])].map(|(part, shape)| {
            let (name, dtype) = (format!("{}.{part}", self.entry.gguf), TensorType::F32.into());
            GgufTensorSpec { name, shape: shape.to_vec(), dtype }
        })
    }
}

impl<'a> Outgoing<'a> {
    fn new(opened: &OpenedModel, adapter: &'a LoraAdapter) -> Result<Self, GgufError> {
        let dir = opened.checkpoint.dir();
        let wrong = |reason| GgufError::Unsupported { path: dir.into(), reason };
        adapter.stored_in(&opened.checkpoint)?;
        let architecture = architectures::of(&opened.config, &opened.model_type).map_err(wrong)?;
        let mut left: BTreeMap<&MatrixName, &LoraMatrix> = adapter.matrices.iter().collect();
        let mut tensors = Vec::new();
        for entry in entries(&opened.config, architecture) {
            let name = MatrixName::of_weight(&entry.name);
            let Some(matrix) = name.as_ref().and_then(|name| left.remove(name)) else { continue };
            if let Some(why) = without_adapter(&entry, architecture) {
                return Err(wrong(why));
            }
            tensors.push(Adapted { entry, matrix });
        }
        if let Some(matrix) = left.into_keys().next().cloned() {
            return Err(AdapterError::Unknown { matrix, similar: None }.into());
        }
        // llama.cpp reads 32 bits, and takes 0 for 1 of the scale.
        let alpha = f64::from(adapter.alpha() as f32);
        let alpha = if alpha.is_finite() && alpha > 0.0 { alpha } else { 1.0 };
        let text = |text: &str| Value::String(text.into());
        let metadata: HashMap<String, Value> = HashMap::from([
            (keys::ARCHITECTURE.into(), text(architecture.name())),
            ("general.type".into(), text("adapter")),
            ("adapter.type".into(), text("lora")),
            ("adapter.lora.alpha".into(), Value::F32(alpha as f32)),
        ]);
        let specs: Vec<GgufTensorSpec> = tensors.iter().flat_map(Adapted::specs).collect();
        let layout = GgufLayout::new(&metadata, &specs)?;
        Ok(Self { architecture, alpha, layout, tensors })
    }

    fn summary(&self) -> GgufWritten {
        GgufWritten {
            architecture: self.architecture.name().into(),
            types: BTreeMap::from([(TensorType::F32.into(), 2 * self.tensors.len())]),
            parameters: self.tensors.iter().map(|adapted| adapted.matrix.parameters()).sum(),
            bytes: self.layout.bytes(),
            remarks: Vec::new(),
        }
    }
}

/// Why llama.cpp adds no adapter to a matrix; `None` if it does.
fn without_adapter(entry: &Entry, architecture: Known) -> Option<String> {
    let why = if entry.part.is_some() {
        "all experts of a layer are one tensor there".to_string()
    } else if !entry.gguf.starts_with("blk.") && entry.gguf != HEAD {
        "its rows are looked up".to_string()
    } else if !architecture.adds_adapter_to(&entry.gguf) {
        format!("it ignores one for this matrix in models of type {}", architecture.name())
    } else {
        return None;
    };
    let name = &entry.name;
    Some(format!("the adapter changes `{name}`, to which llama.cpp adds no adapter: {why}"))
}

/// The head in files.
const HEAD: &str = "output.weight";

/// What [`export_adapter`] would write.
///
/// # Errors
///
/// Those of [`export_adapter`] about the model.
pub fn adapter_summary(
    opened: &OpenedModel,
    adapter: &LoraAdapter,
) -> Result<GgufWritten, GgufError> {
    Ok(Outgoing::new(opened, adapter)?.summary())
}

/// Writes an adapter of a model as a file that llama.cpp adds to one of the model (`--lora`): in f32, with
/// rows in its order. It has one `alpha` for all matrices and divides it by the rank of each, so what
/// else there is of a scale is in the second matrix. The file appears when it is complete, in place of
/// one that was there.
///
/// # Errors
///
/// [`GgufError::Adapter`] for an adapter of another model; [`GgufError::Unsupported`] for a model that
/// llama.cpp does not have, and for matrices to which it adds no adapter, such as those of experts;
/// [`GgufError::Container`].
pub fn export_adapter(
    opened: &OpenedModel,
    adapter: &LoraAdapter,
    path: impl AsRef<Path>,
) -> Result<GgufWritten, GgufError> {
    let outgoing = Outgoing::new(opened, adapter)?;
    let path = path.as_ref();
    let mut file = GgufWriter::create(path, &outgoing.layout)?;
    for adapted in &outgoing.tensors {
        let Adapted { entry, matrix } = adapted;
        let (rank, [outputs, _]) = (matrix.rank(), matrix.shape());
        let b = matrix.b_at(outgoing.alpha / rank as f64).map_err(|problem| {
            let matrix = MatrixName::from(entry.name.as_str());
            AdapterError::Matrix { path: path.into(), matrix, problem }
        })?;
        let [first, second] = adapted.specs();
        file.write(&first.name, &bytes(matrix.a()))?;
        let rows = entry.order.to_file(Cow::Owned(bytes(&b)), &[outputs, rank]);
        file.write(&second.name, &rows)?;
    }
    file.finish()?;
    Ok(outgoing.summary())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ggml::GgufFile;
    use crate::model::open_model;

    /// llama.cpp rotates neighbours, so rows of queries are in another order there.
    #[test]
    fn files_have_the_names_the_shapes_and_the_rows_of_llama_cpp() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-llama");
        let opened = open_model(dir, &Device::default()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lora.gguf");
        let matrix = |[outputs, inputs]: [usize; 2], rank: usize, scale| {
            let numbers = |count: usize| (0..count).map(|n| (n % 89) as f32).collect();
            let (a, b) = (numbers(rank * inputs), numbers(outputs * rank));
            LoraMatrix::new([outputs, inputs], rank, a, b, scale).unwrap()
        };
        let (query, down) = (matrix([64, 64], 4, 0.5), matrix([64, 160], 2, 4.0));
        let matrices = [
            ("model.layers.0.self_attn.q_proj".into(), query.clone()),
            ("model.layers.1.mlp.down_proj".into(), down.clone()),
        ];
        let adapter = LoraAdapter { matrices: matrices.into(), ..LoraAdapter::default() };
        let written = export_adapter(&opened, &adapter, &path).unwrap();
        assert_eq!((written.architecture.as_str(), written.parameters), ("llama", 960));
        assert_eq!(path.metadata().unwrap().len(), written.bytes);

        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.text("general.type").unwrap(), Some("adapter"));
        assert_eq!(file.text("adapter.type").unwrap(), Some("lora"));
        // The larger one of the scales times the ranks.
        assert_eq!(file.number("adapter.lora.alpha").unwrap(), Some(8.0));
        let tensor = |name: &str| {
            let info = &file.tensors()[name];
            let (entries, _) = file.bytes(info).as_chunks::<4>();
            let entries = entries.iter().map(|x| f32::from_le_bytes(*x));
            (info.shape.clone(), entries.collect::<Vec<f32>>())
        };
        let (shape, a) = tensor("blk.0.attn_q.weight.lora_a");
        assert_eq!((shape, a.as_slice()), (vec![64, 4], query.a()));
        let (shape, b) = tensor("blk.0.attn_q.weight.lora_b");
        assert_eq!(shape, [4, 64]);
        // Heads have 16 channels, of which the channel 8 is the neighbour of the channel 0. A scale of
        // 0.5 is one of 8 / 4 with a quarter of the matrix.
        for (row, own) in [(0, 0), (1, 8), (2, 1), (15, 15), (17, 24)] {
            let expected: Vec<f32> = query.b()[4 * own..][..4].iter().map(|x| x / 4.0).collect();
            assert_eq!(b[4 * row..][..4], expected, "row {row}");
        }
        let (shape, b) = tensor("blk.1.ffn_down.weight.lora_b");
        assert_eq!((shape, b.as_slice()), (vec![2, 64], down.b()));
    }
}
