use std::collections::BTreeSet;

use globset::{Glob, GlobSet, GlobSetBuilder};

/// A selection of matrices by name.
///
/// A pattern is a glob over Hugging Face matrix names such as
/// `model.layers.3.self_attn.q_proj` (no `.weight`); `*` also crosses dots. A pattern
/// without a leading `*` also matches the end of a name after a dot, so `q_proj` means
/// every `q_proj`.
#[derive(Debug, Clone)]
pub struct Selection {
    include: Vec<String>,
    exclude: Vec<String>,
    include_set: GlobSet,
    exclude_set: GlobSet,
    /// What is included, where whole names are given in place of patterns.
    names: Option<BTreeSet<String>>,
}

/// A pattern that is not a glob.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a valid pattern: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Selection {
    /// Every matrix.
    pub fn all() -> Self {
        Self::of(["*"]).expect("`*` is a valid pattern")
    }

    /// The matrices that match one of these patterns.
    ///
    /// # Errors
    ///
    /// [`PatternError`] for a pattern that is not a glob.
    pub fn of<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, PatternError> {
        let include: Vec<String> = patterns.into_iter().map(|p| p.as_ref().into()).collect();
        let (include_set, exclude_set) = (compile(&include)?, GlobSet::empty());
        Ok(Self { include, exclude: Vec::new(), include_set, exclude_set, names: None })
    }

    /// The matrices of these names, which are no patterns.
    pub fn of_names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = Some(names.into_iter().map(Into::into).collect());
        let (include_set, exclude_set) = (GlobSet::empty(), GlobSet::empty());
        Self { include: Vec::new(), exclude: Vec::new(), include_set, exclude_set, names }
    }

    /// The same without the matrices that match one of these patterns.
    ///
    /// # Errors
    ///
    /// [`PatternError`] for a pattern that is not a glob.
    pub fn except<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, PatternError> {
        self.exclude.extend(patterns.into_iter().map(|p| p.as_ref().to_string()));
        self.exclude_set = compile(&self.exclude)?;
        Ok(self)
    }

    /// Whether a matrix of this name is selected.
    pub fn matches(&self, name: &str) -> bool {
        let is_included = match &self.names {
            Some(names) => names.contains(name),
            None => self.include_set.is_match(name),
        };
        is_included && !self.exclude_set.is_match(name)
    }

    /// The patterns, included and excluded, that match none of `names`: likely misspelt. Included
    /// names that are not among them, too.
    pub fn unmatched<'a>(&'a self, names: &[&str]) -> Vec<&'a str> {
        let known: BTreeSet<&str> = names.iter().copied().collect();
        let absent = self.names.iter().flatten().filter(|name| !known.contains(name.as_str()));
        let patterns = self.include.iter().chain(&self.exclude).filter(|pattern| {
            let set = compile(std::slice::from_ref(pattern)).expect("compiled before");
            !names.iter().any(|name| set.is_match(name))
        });
        absent.chain(patterns).map(String::as_str).collect()
    }

    /// The likely meaning of a pattern that matches none of `names`: each word that is in no name
    /// is replaced by the most similar one, and a part of names is completed, as `layers.0` to
    /// `*.layers.0.*`. `None` if that matches nothing either.
    pub fn meant(pattern: &str, names: &[&str]) -> Option<String> {
        let words: BTreeSet<&str> = names.iter().flat_map(|name| name.split('.')).collect();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut meant = String::new();
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length.max(first.len_utf8()));
            meant.push_str(if length > 0 { similar(word, &words) } else { word });
            rest = after;
        }
        completed(&meant).into_iter().find(|pattern| {
            let set = compile(std::slice::from_ref(pattern));
            set.is_ok_and(|set| names.iter().any(|name| set.is_match(name)))
        })
    }
}

/// A pattern, and patterns for the names that it may be a part of.
fn completed(pattern: &str) -> Vec<String> {
    let part = pattern.trim_matches(['.', '*']);
    if part.is_empty() {
        return vec![pattern.into()];
    }
    let mut patterns = vec![pattern.into(), format!("*.{part}.*"), format!("{part}.*")];
    // A number would match those that begin with it.
    if !part.ends_with(|c: char| c.is_ascii_digit()) {
        patterns.push(format!("*{part}*"));
    }
    patterns
}

/// The word most similar to this one, or this one itself if none is similar. A number is never
/// replaced.
fn similar<'a>(word: &'a str, words: &BTreeSet<&'a str>) -> &'a str {
    if words.contains(word) || word.chars().all(|c| c.is_ascii_digit()) {
        return word;
    }
    words
        .iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate))
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(word, |(_, candidate)| candidate)
}

fn compile(patterns: &[String]) -> Result<GlobSet, PatternError> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = |text: &str| {
            Glob::new(text).map_err(|error| PatternError {
                pattern: pattern.clone(),
                reason: error.kind().to_string(),
            })
        };
        builder.add(glob(pattern)?);
        if !pattern.starts_with('*') {
            builder.add(glob(&format!("*.{pattern}"))?);
        }
    }
    builder.build().map_err(|error| PatternError {
        pattern: patterns.join(","),
        reason: error.kind().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.11.mlp.down_proj",
        "model.embed_tokens",
        "lm_head",
    ];

    fn picked(selection: &Selection) -> Vec<&'static str> {
        NAMES.into_iter().filter(|name| selection.matches(name)).collect()
    }

    #[test]
    fn all_takes_everything() {
        assert_eq!(picked(&Selection::all()), NAMES);
    }

    #[test]
    fn bare_names_match_the_end_and_exclusion_wins() {
        let selection = Selection::of(["q_proj", "mlp.*"]).unwrap().except(["*.11.*"]).unwrap();
        assert_eq!(picked(&selection), NAMES[..1]);
    }

    #[test]
    fn whole_names_are_no_patterns() {
        let selection = Selection::of_names(["lm_head", "a[0]"]);
        assert_eq!(picked(&selection), ["lm_head"]);
        assert!(selection.matches("a[0]") && !selection.matches("model.lm_head"));
        assert_eq!(selection.unmatched(&NAMES), ["a[0]"]);
        assert!(picked(&selection.except(["*head"]).unwrap()).is_empty());
    }

    #[test]
    fn misspelt_patterns_are_told() {
        let selection = Selection::of(["q_proj", "qproj"]).unwrap().except(["nothing"]).unwrap();
        assert_eq!(selection.unmatched(&NAMES), ["qproj", "nothing"]);
    }

    #[test]
    fn misspelt_words_of_a_pattern_are_put_right() {
        let meant = |pattern| Selection::meant(pattern, &NAMES);
        for (pattern, right) in [
            ("*q_prj", "*q_proj"),
            ("qproj", "q_proj"),
            ("*.layer.0.*", "*.layers.0.*"),
            ("slef_attn.q_porj", "self_attn.q_proj"),
            ("layers.0", "*.layers.0.*"),
            ("layers.11.", "*.layers.11.*"),
            ("*.layers.0", "*.layers.0.*"),
            ("layer.11.mlp", "*.layers.11.mlp.*"),
            ("mlp", "*.mlp.*"),
            ("model.layers.0", "model.layers.0.*"),
            ("attn", "*attn*"),
        ] {
            assert_eq!(meant(pattern).as_deref(), Some(right));
        }
        for pattern in ["nothing", "*.layers.7.*", "layers.1", "q_prj.layers", "*ä*", "", "."] {
            assert_eq!(meant(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn broken_pattern_is_an_error_that_names_it() {
        let error = Selection::of(["[q"]).unwrap_err();
        assert!(error.to_string().contains("[q"));
    }
}
