//! Writes what the demo model is trained from: stories, a tokenizer trained on them, and a
//! configuration. `demo/make.sh` calls it.
//!
//! ```text
//! cargo run --release -p welore-cli --example demo_prepare -- OUT
//! ```

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Result, TokenizerBuilder};
use welore_stories::Stories;

/// Seeds of the stories; those of `demo` are others.
const TRAIN: (u64, usize) = (1, 40_000);
const VALID: (u64, usize) = (2, 200);

const VOCAB_SIZE: usize = 2048;
const END: &str = "<|end|>";

const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 2048,
  "hidden_size": 192,
  "intermediate_size": 512,
  "num_hidden_layers": 6,
  "num_attention_heads": 6,
  "num_key_value_heads": 6,
  "hidden_act": "silu",
  "max_position_embeddings": 512,
  "initializer_range": 0.02,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "tie_word_embeddings": true,
  "attention_bias": false,
  "mlp_bias": false,
  "bos_token_id": 0,
  "eos_token_id": 0,
  "torch_dtype": "float16"
}
"#;

fn main() -> Result<()> {
    let out = std::env::args().nth(1).ok_or("usage: demo_prepare OUT")?;
    let out = Path::new(&out);
    fs::create_dir_all(out)?;
    let train: Vec<String> = Stories::new(TRAIN.0).take(TRAIN.1).collect();
    let mut lines = BufWriter::new(fs::File::create(out.join("train.jsonl"))?);
    for story in &train {
        writeln!(lines, "{}", serde_json::json!({ "text": story }))?;
    }
    lines.flush()?;
    let valid: Vec<String> = Stories::new(VALID.0).take(VALID.1).collect();
    fs::write(out.join("valid.txt"), valid.join("\n"))?;
    fs::write(out.join("config.json"), CONFIG)?;
    train_tokenizer(&train, &out.join("tokenizer.json"))
}

/// Byte-level BPE, as LLaMA 3 and SmolLM2 have it.
fn train_tokenizer(stories: &[String], file: &Path) -> Result<()> {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCAB_SIZE)
        .special_tokens(vec![AddedToken::from(END, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let bytes = ByteLevel::default().add_prefix_space(false);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(bytes))
        .build()?;
    tokenizer.train(&mut trainer, stories.iter())?;
    tokenizer.save(file, false)?;
    Ok(())
}
