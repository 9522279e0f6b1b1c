//! Damages files: in their structure where it is known, in their bytes otherwise. What happens to a
//! file depends on the number of the case alone.

use serde_json::{Map, Number, Value, json};

use crate::gguf::writer::{Gguf, Meta};

/// A whole file.
pub enum Seed {
    /// JSON.
    Json(Value),
    /// JSON, one value per line.
    Lines(Vec<Value>),
    /// Safetensors.
    Tensors(Tensors),
    /// GGUF.
    Gguf(Gguf),
}

/// The parts of a safetensors file.
#[derive(Clone)]
pub struct Tensors {
    header: Value,
    data: Vec<u8>,
    /// The tensor that holds JSON, if one does.
    manifest: Option<&'static str>,
}

/// Numbers that look random: SplitMix64.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        (self.draw() % count as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The bytes of a case: one of the files, damaged.
pub fn case(seeds: &[Seed], number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let seed = random.pick(seeds);
    if random.below(3) == 0 {
        return damaged(seed.bytes(), &mut random);
    }
    let data = seed.edited(&mut random);
    match random.below(4) {
        0 => damaged(data, &mut random),
        _ => data,
    }
}

impl Seed {
    /// The file as it is.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Lines(lines) => joined(lines),
            Self::Tensors(tensors) => tensors.bytes(),
            Self::Gguf(gguf) => gguf.bytes(),
        }
    }

    fn edited(&self, random: &mut Random) -> Vec<u8> {
        match self {
            Self::Json(value) => edited(value, random).to_string().into_bytes(),
            Self::Lines(lines) => {
                let mut lines = lines.clone();
                let line = random.below(lines.len());
                lines[line] = edited(&lines[line], random);
                let other = random.below(lines.len());
                lines.swap(line, other);
                joined(&lines)
            }
            Self::Tensors(tensors) => tensors.edited(random),
            Self::Gguf(gguf) => edited_gguf(gguf.clone(), random),
        }
    }
}

fn joined(lines: &[Value]) -> Vec<u8> {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

/// A value with one to three changes.
fn edited(value: &Value, random: &mut Random) -> Value {
    let mut edited = value.clone();
    for _ in 0..1 + random.below(3) {
        let other = within(&mut value.clone(), random).clone();
        edit(within(&mut edited, random), other, random);
    }
    edited
}

/// A value somewhere within another one. Each turn is as likely as the others, so that a long list
/// does not take all.
fn within<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if count == 0 || random.below(6) == 0 {
        return value;
    }
    let place = random.below(count);
    let child = match value {
        Value::Array(items) => items.get_mut(place),
        Value::Object(fields) => fields.values_mut().nth(place),
        _ => None,
    };
    within(child.expect("there are more than that"), random)
}

/// Makes a value an odd one, another of its file, or one with other parts.
fn edit(value: &mut Value, other: Value, random: &mut Random) {
    match (random.below(4), value) {
        (0, value) => *value = other,
        (1 | 2, Value::Array(items)) if !items.is_empty() => edit_list(items, other, random),
        (1 | 2, Value::Object(fields)) if !fields.is_empty() => edit_object(fields, other, random),
        (1 | 2, Value::Number(number)) => *number = near(number, random),
        (_, value) => *value = odd(random),
    }
}

fn edit_list(items: &mut Vec<Value>, other: Value, random: &mut Random) {
    let place = random.below(items.len());
    match random.below(4) {
        0 => drop(items.remove(place)),
        1 => items.insert(place, other),
        2 => items.insert(place, items[place].clone()),
        _ => items.truncate(place),
    }
}

fn edit_object(fields: &mut Map<String, Value>, other: Value, random: &mut Random) {
    let keys: Vec<String> = fields.keys().cloned().collect();
    let (key, second) = (random.pick(&keys), random.pick(&keys));
    let copy = fields[second].clone();
    match random.below(4) {
        0 => drop(fields.remove(key)),
        1 => drop(fields.insert(format!("{key}x"), other)),
        2 => drop(fields.insert(key.clone(), copy)),
        _ => {
            fields.remove(key);
            fields.insert(format!("{key}x"), copy);
        }
    }
}

fn near(number: &Number, random: &mut Random) -> Number {
    match (number.as_u64(), number.as_f64()) {
        (Some(n), _) => {
            let near = [n.wrapping_add(1), n.wrapping_sub(1), n.wrapping_mul(2), n / 2];
            Number::from(*random.pick(&near))
        }
        (None, Some(x)) => Number::from_f64(-x).unwrap_or_else(|| Number::from(0)),
        (None, None) => Number::from(0),
    }
}

fn odd(random: &mut Random) -> Value {
    let nested = |depth: usize| (0..depth).fold(json!([]), |inner, _| json!([inner]));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(-0.0),
        json!(5e-324),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1u64 << 24),
        json!(1u64 << 32),
        json!(1u64 << 61),
        json!(""),
        json!("NaN"),
        json!("Infinity"),
        json!("../../elsewhere"),
        json!("\0\u{1b}[31m\n"),
        json!("</script>"),
        json!("long".repeat(5000)),
        json!([]),
        json!({}),
        nested(20),
        nested(200),
    ];
    random.pick(&values).clone()
}

impl Tensors {
    /// Takes a file apart.
    pub fn parse(file: &[u8], manifest: Option<&'static str>) -> Self {
        let (length, rest) = file.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).unwrap(), data: data.to_vec(), manifest }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = self.header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &self.data].concat()
    }

    /// The JSON in the manifest.
    pub fn manifest(&self) -> Option<Value> {
        let [start, end] = offsets(&self.header[self.manifest?]);
        Some(serde_json::from_slice(&self.data[start..end]).unwrap())
    }

    /// Writes another manifest, and moves the tensors behind it.
    pub fn set_manifest(&mut self, manifest: &Value) {
        let name = self.manifest.unwrap();
        let text = manifest.to_string();
        let [start, end] = offsets(&self.header[name]);
        drop(self.data.splice(start..end, text.bytes()));
        let moved = |at: usize| if at < end { at } else { at - end + start + text.len() };
        for info in self.header.as_object_mut().unwrap().values_mut() {
            if info.get("data_offsets").is_some() {
                info["data_offsets"] = json!(offsets(info).map(moved));
            }
        }
        self.header[name]["shape"] = json!([text.len()]);
    }

    fn edited(&self, random: &mut Random) -> Vec<u8> {
        let mut edited_file = self.clone();
        match self.manifest().filter(|_| random.below(3) > 0) {
            Some(manifest) => edited_file.set_manifest(&edited(&manifest, random)),
            None => edited_file.header = edited(&self.header, random),
        }
        edited_file.bytes()
    }
}

fn offsets(info: &Value) -> [usize; 2] {
    [0, 1].map(|side: usize| info["data_offsets"][side].as_u64().unwrap() as usize)
}

fn edited_gguf(mut gguf: Gguf, random: &mut Random) -> Vec<u8> {
    for _ in 0..1 + random.below(2) {
        let (meta, other) = (random.below(gguf.meta.len()), random.below(gguf.meta.len()));
        let tensor = random.below(gguf.tensors.len());
        match random.below(8) {
            0 => drop(gguf.meta.remove(meta)),
            1 => gguf.meta[meta].1 = gguf.meta[other].1.clone(),
            2..=4 => gguf.meta[meta].1 = odd_meta(random),
            5 => drop(gguf.tensors.remove(tensor)),
            6 => {
                let sides = [0, 1, 3, 1 << 20, 1 << 40, usize::MAX];
                let shape = &mut gguf.tensors[tensor].shape;
                let side = random.below(shape.len());
                shape[side] = *random.pick(&sides);
            }
            _ => gguf.tensors[tensor].kind = random.below(44) as u32,
        }
    }
    gguf.bytes()
}

fn odd_meta(random: &mut Random) -> Meta {
    let texts = |texts: &[&str]| Meta::Texts(texts.iter().map(ToString::to_string).collect());
    let values = [
        Meta::U32(0),
        Meta::U32(1),
        Meta::U32(3),
        Meta::U32(1 << 24),
        Meta::U32(u32::MAX),
        Meta::F32(0.0),
        Meta::F32(-1.5),
        Meta::F32(f32::MAX),
        Meta::F32(f32::NAN),
        Meta::Bool(true),
        Meta::Text(String::new()),
        Meta::Text("llama".into()),
        Meta::Text("gpt2".into()),
        Meta::Text("\0</script>".into()),
        texts(&[]),
        texts(&["t0 t1", "t0  t1", " ", "t0"]),
        texts(&["", "a", "aa", "\u{2581}a"]),
        Meta::Integers(vec![2, 3, 6, -1]),
        Meta::Numbers(vec![f32::NAN, f32::INFINITY, 0.0, -1.0]),
        Meta::Nested(100),
    ];
    random.pick(&values).clone()
}

/// Bytes with one to three changes.
fn damaged(mut data: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..1 + random.below(3) {
        damage(&mut data, random);
    }
    data
}

fn damage(data: &mut Vec<u8>, random: &mut Random) {
    const WORDS: [&[u8]; 9] =
        [b"1e999", b"NaN", b"-", b"null", b"\"", b"{", b"]", b"\xff\xfe", b"\\ud800"];
    if data.is_empty() {
        data.extend(b"{}");
    }
    let at = random.below(data.len());
    let end = data.len().min(at + 1 + random.below(64));
    match random.below(8) {
        0 => data[at] ^= 1 << random.below(8),
        1 => data[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        2 => data.truncate(at),
        3 => drop(data.drain(at..end)),
        4 => drop(data.splice(at..at, data[at..end].to_vec())),
        5 => drop(data.splice(at..at, random.pick(&WORDS).iter().copied())),
        6 => {
            // Sizes have eight bytes.
            let size = *random.pick(&[0, 1 << 20, 1 << 32, 1 << 61, u64::MAX]);
            let place = data.iter_mut().skip(at / 8 * 8);
            place.zip(size.to_le_bytes()).for_each(|(byte, of_size)| *byte = of_size);
        }
        _ => data.extend([0u8; 64]),
    }
}
