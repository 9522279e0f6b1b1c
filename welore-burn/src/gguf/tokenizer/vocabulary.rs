use serde_json::{Map, Value};

use super::super::error::GgufError;
use super::super::keys::{self, KINDS, TOKENIZER, TOKENS};
use crate::ggml::GgufFile;
use crate::words::number_of;

/// What a token is for, as llama.cpp numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Fills the embedding; never occurs in a text.
    Unused,
    /// One byte of a text that no other token covers.
    Byte,
}

impl Kind {
    const NUMBERED: [(i32, Self); 6] = [
        (1, Self::Normal),
        (2, Self::Unknown),
        (3, Self::Control),
        (4, Self::UserDefined),
        (5, Self::Unused),
        (6, Self::Byte),
    ];

    /// The kind of this number; one that llama.cpp does not know is normal.
    fn of(number: i32) -> Self {
        let known = Self::NUMBERED.iter().find(|(known, _)| *known == number);
        known.map_or(Self::Normal, |(_, kind)| *kind)
    }

    /// Its number.
    pub fn number(self) -> i32 {
        let known = Self::NUMBERED.iter().find(|(_, kind)| *kind == self);
        known.map_or(1, |(number, _)| *number)
    }
}

/// The tokens of a file, by their number.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Option<&'a [i32]>,
}

impl<'a> Vocabulary<'a> {
    pub fn read(file: &'a GgufFile) -> Result<Self, GgufError> {
        let tokens = file.needed(TOKENS, file.texts(TOKENS)?)?;
        let kinds = file.integers(KINDS)?;
        if let Some(kinds) = kinds
            && kinds.len() != tokens.len()
        {
            let (kinds, tokens) = (kinds.len(), number_of(tokens.len(), "token"));
            let reason = format!("has length {kinds} for {tokens}");
            return Err(file.wrong(KINDS, reason));
        }
        Ok(Self { tokens, kinds })
    }

    /// Number of tokens, unused ones included.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn get(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    pub fn kind(&self, id: u32) -> Kind {
        let number = self.kinds.and_then(|kinds| kinds.get(id as usize));
        number.map_or(Kind::Normal, |number| Kind::of(*number))
    }

    /// The tokens that a text may contain, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &'a str)> + '_ {
        let tokens = self.tokens.iter().enumerate();
        let all = tokens.map(|(id, token)| (id as u32, token.as_str()));
        all.filter(move |(id, token)| !token.is_empty() && self.kind(*id) != Kind::Unused)
    }

    /// The vocabulary of a `tokenizer.json`.
    pub fn to_json(&self) -> Value {
        let map: Map<String, Value> =
            self.iter().map(|(id, token)| (token.to_string(), id.into())).collect();
        Value::Object(map)
    }
}

/// The special tokens that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Stands for text that no token covers.
    pub unknown: Option<u32>,
    /// Pads shorter texts.
    pub padding: Option<u32>,
    /// All tokens that end a text or a turn, the one for texts first.
    pub ends: Vec<u32>,
}

impl SpecialTokens {
    /// # Errors
    ///
    /// [`GgufError::Metadata`] for a number that no token has.
    pub fn read(file: &GgufFile) -> Result<Self, GgufError> {
        let count = file.texts(TOKENS)?.map_or(0, <[String]>::len) as u64;
        // llama.cpp's own defaults for this kind.
        let sentence_piece = file.text(TOKENIZER)? == Some("llama");
        let default = |id: u32| Some(id).filter(|id| sentence_piece && u64::from(*id) < count);
        let id = |name: &str| -> Result<Option<u32>, GgufError> {
            let key = keys::special(name);
            match file.integer(&key)? {
                Some(id) if id < count => Ok(Some(id as u32)),
                // -1, as older converters write it.
                Some(id) if id == u64::from(u32::MAX) => Ok(None),
                Some(id) => {
                    Err(file.wrong(&key, format!("is {id}, but the number of tokens is {count}")))
                }
                None => Ok(None),
            }
        };
        let (bos, eos) = (id("bos")?.or(default(1)), id("eos")?.or(default(2)));
        let mut ends: Vec<u32> = [eos, id("eot")?].into_iter().flatten().collect();
        ends.dedup();
        let unknown = id("unknown")?.or(default(0));
        Ok(Self { bos, eos, unknown, padding: id("padding")?, ends })
    }
}
