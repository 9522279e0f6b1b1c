//! Writes small GGUF files, including broken ones, from the format's description, without any code
//! of the reader.

use half::bf16;
use safetensors::Dtype;
use serde_json::Value;
use welore_burn::checkpoint::Checkpoint;

use crate::fixture;

#[derive(Clone)]
pub enum Meta {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
    Numbers(Vec<f32>),
    /// This many nested lists of one list each.
    Nested(usize),
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Row-major, as in a model directory.
    pub shape: Vec<usize>,
    /// The type by its number in ggml.
    pub kind: u32,
    pub data: Vec<u8>,
}

#[derive(Clone, Default)]
pub struct Gguf {
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<Tensor>,
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: Meta) {
        self.unset(key);
        self.meta.push((key.into(), value));
    }

    pub fn unset(&mut self, key: &str) {
        self.meta.retain(|(name, _)| name != key);
    }

    pub fn add(&mut self, name: &str, shape: &[usize], kind: u32, data: Vec<u8>) {
        self.tensors.push(Tensor { name: name.into(), shape: shape.to_vec(), kind, data });
    }

    pub fn add_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.add(name, shape, 0, values.iter().flat_map(|x| x.to_le_bytes()).collect());
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Adds a tokenizer of tokens without merges.
    pub fn add_tokens(&mut self, count: usize) {
        let tokens = (0..count).map(|i| format!("t{i}")).collect();
        self.set("tokenizer.ggml.model", Meta::Text("gpt2".into()));
        self.set("tokenizer.ggml.pre", Meta::Text("gpt-2".into()));
        self.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        self.set("tokenizer.ggml.merges", Meta::Texts(Vec::new()));
    }

    /// The same model in parts of so many tensors each, as `llama-gguf-split` makes them: the first one
    /// has all metadata.
    pub fn parts(&self, sizes: &[usize]) -> Vec<Gguf> {
        let mut tensors = self.tensors.iter().cloned();
        let part = |(number, size): (usize, &usize)| {
            let mut part =
                Gguf { tensors: tensors.by_ref().take(*size).collect(), ..Gguf::default() };
            if number == 0 {
                part.meta = self.meta.clone();
            }
            part.set("split.no", Meta::U16(number as u16));
            part.set("split.count", Meta::U16(sizes.len() as u16));
            part.set("split.tensors.count", Meta::I32(self.tensors.len() as i32));
            part
        };
        sizes.iter().enumerate().map(part).collect()
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            header.extend(text(key));
            header.extend(encode(value));
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            header.extend(text(&tensor.name));
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for n in tensor.shape.iter().rev() {
                header.extend((*n as u64).to_le_bytes());
            }
            header.extend(tensor.kind.to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        header.resize(header.len().next_multiple_of(32), 0);
        header.extend(data);
        header
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn encode(value: &Meta) -> Vec<u8> {
    let tagged = |tag: u32, bytes: &[u8]| [&tag.to_le_bytes()[..], bytes].concat();
    let array = |tag: u32, count: usize, bytes: Vec<u8>| {
        let head = [&tag.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        tagged(9, &[head, bytes].concat())
    };
    match value {
        Meta::U16(x) => tagged(2, &x.to_le_bytes()),
        Meta::U32(x) => tagged(4, &x.to_le_bytes()),
        Meta::I32(x) => tagged(5, &x.to_le_bytes()),
        Meta::F32(x) => tagged(6, &x.to_le_bytes()),
        Meta::Bool(x) => tagged(7, &[u8::from(*x)]),
        Meta::Text(x) => tagged(8, &text(x)),
        Meta::Texts(x) => array(8, x.len(), x.iter().flat_map(|x| text(x)).collect()),
        Meta::Nested(depth) => {
            let list = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
            tagged(9, &[list.repeat(*depth), vec![0; 12]].concat())
        }
        Meta::Integers(x) => array(5, x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Meta::Numbers(x) => array(6, x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

/// A model of one layer and a vocabulary of `vocab`, `hidden` wide, everything else as small as
/// possible.
pub fn tiny(vocab: usize, hidden: usize) -> Gguf {
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", Meta::Text("llama".into()));
    let sizes = [
        ("embedding_length", hidden),
        ("block_count", 1),
        ("feed_forward_length", 1),
        ("context_length", 8),
        ("attention.head_count", 1),
        ("attention.key_length", 2),
        ("attention.value_length", 2),
    ];
    for (key, size) in sizes {
        gguf.set(&format!("llama.{key}"), Meta::U32(size as u32));
    }
    gguf.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
    gguf.add_tokens(vocab);
    let matrices = [
        ("attn_q", [2, hidden]),
        ("attn_k", [2, hidden]),
        ("attn_v", [2, hidden]),
        ("attn_output", [hidden, 2]),
        ("ffn_gate", [1, hidden]),
        ("ffn_up", [1, hidden]),
        ("ffn_down", [hidden, 1]),
    ];
    for (name, shape) in matrices {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| i as f32).collect();
        gguf.add_f32(&format!("blk.0.{name}.weight"), &shape, &values);
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        gguf.add_f32(&format!("{name}.weight"), &[hidden], &vec![1.0; hidden]);
    }
    gguf.add_f32("token_embd.weight", &[vocab, hidden], &vec![0.5; vocab * hidden]);
    gguf
}

/// A fixture as llama.cpp's converter writes it.
pub fn of_fixture(name: &str) -> Gguf {
    let dir = fixture(name);
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let qwen2 = config["model_type"] == "qwen2";
    let architecture = if qwen2 { "qwen2" } else { "llama" };
    let (heads, hidden) = (number("num_attention_heads"), number("hidden_size"));
    let width = config["head_dim"].as_u64().map_or(hidden / heads, |width| width as u32);
    let theta = &config["rope_theta"];
    let theta = theta.as_f64().or(config["rope_parameters"]["rope_theta"].as_f64()).unwrap();

    let mut gguf = Gguf::default();
    gguf.set("general.architecture", Meta::Text(architecture.into()));
    let sizes = [
        ("embedding_length", hidden),
        ("block_count", number("num_hidden_layers")),
        ("feed_forward_length", number("intermediate_size")),
        ("context_length", number("max_position_embeddings")),
        ("attention.head_count", heads),
        ("attention.head_count_kv", number("num_key_value_heads")),
        ("attention.key_length", width),
        ("attention.value_length", width),
        ("rope.dimension_count", width),
    ];
    for (key, size) in sizes {
        gguf.set(&format!("{architecture}.{key}"), Meta::U32(size));
    }
    let eps = config["rms_norm_eps"].as_f64().unwrap() as f32;
    gguf.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Meta::F32(eps));
    gguf.set(&format!("{architecture}.rope.freq_base"), Meta::F32(theta as f32));
    if let Some(window) = config["sliding_window"].as_u64() {
        gguf.set("llama.attention.sliding_window", Meta::U32(window as u32));
    }
    gguf.set("tokenizer.ggml.bos_token_id", Meta::U32(number("bos_token_id")));
    gguf.set("tokenizer.ggml.eos_token_id", Meta::U32(number("eos_token_id")));
    gguf.add_tokens(number("vocab_size") as usize);
    if config["rope_scaling"]["rope_type"] == "llama3" {
        let factors = llama3_divisors(&config["rope_scaling"], theta, width as usize);
        gguf.add_f32("rope_freqs.weight", &[factors.len()], &factors);
    }

    add_weights(&mut gguf, &Checkpoint::open(dir).unwrap(), &config);
    gguf
}

/// Adds the weights of a model directory, as llama.cpp's converter writes them.
fn add_weights(gguf: &mut Gguf, checkpoint: &Checkpoint, config: &Value) {
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let qwen2 = config["model_type"] == "qwen2";
    for name in checkpoint.names() {
        let (meta, bytes) = checkpoint.raw(name).unwrap();
        let (mut kind, mut data) = match meta.dtype {
            Dtype::F32 => (0, bytes.to_vec()),
            Dtype::F16 => (1, bytes.to_vec()),
            Dtype::BF16 => (30, bytes.to_vec()),
            other => panic!("{other}"),
        };
        if kind == 30 && meta.shape.len() == 1 {
            // Vectors are always F32 there.
            let (entries, _) = bytes.as_chunks::<2>();
            data = entries
                .iter()
                .flat_map(|x| bf16::from_le_bytes(*x).to_f32().to_le_bytes())
                .collect();
            kind = 0;
        }
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") if !qwen2 => Some(number("num_attention_heads")),
            Some("k_proj") if !qwen2 => Some(number("num_key_value_heads")),
            _ => None,
        };
        if let Some(heads) = heads {
            data = interleave(&data, heads as usize, meta.shape[0]);
        }
        gguf.add(&name_in_gguf(name), &meta.shape, kind, data);
    }
}

/// Puts the rows of every head in the order `0, d/2, 1, d/2 + 1, ...`.
fn interleave(data: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (stride, width) = (data.len() / rows, rows / heads);
    let order = (0..heads).flat_map(|head| {
        (0..width / 2)
            .flat_map(move |pair| [0, 1].map(|half| head * width + half * (width / 2) + pair))
    });
    order.flat_map(|row| data[row * stride..(row + 1) * stride].to_vec()).collect()
}

fn name_in_gguf(name: &str) -> String {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    names.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}

/// What `convert_hf_to_gguf.py` stores of the scaling of LLaMA 3.1.
fn llama3_divisors(scaling: &Value, theta: f64, width: usize) -> Vec<f32> {
    let value = |key: &str| scaling[key].as_f64().unwrap();
    let (factor, context) = (value("factor"), value("original_max_position_embeddings"));
    let (low, high) = (value("low_freq_factor"), value("high_freq_factor"));
    (0..width / 2)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / width as f64);
            if wavelength < context / high {
                1.0
            } else if wavelength > context / low {
                factor as f32
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        })
        .collect()
}
