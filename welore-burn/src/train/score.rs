use serde::{Deserialize, Serialize};

/// How good an evaluated model is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Perplexity of a text; lower is better.
    Perplexity(f64),
    /// Share of right answers to a task; higher is better.
    Accuracy(f64),
}

impl Score {
    /// What is measured: `perplexity` or `accuracy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perplexity(_) => "perplexity",
            Self::Accuracy(_) => "accuracy",
        }
    }

    /// The measured value.
    pub fn value(self) -> f64 {
        match self {
            Self::Perplexity(value) | Self::Accuracy(value) => value,
        }
    }

    /// Whether this is better than another score of the same kind.
    pub fn is_better_than(self, other: Self) -> bool {
        match self {
            Self::Perplexity(value) => value < other.value(),
            Self::Accuracy(value) => value > other.value(),
        }
    }
}

/// What an evaluation measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluated {
    /// The score, which decides which model of the run is the best.
    pub score: Score,
    /// Perplexity of another text, which is only watched; `None` if there is none.
    pub watched: Option<f64>,
}

impl From<Score> for Evaluated {
    fn from(score: Score) -> Self {
        Self { score, watched: None }
    }
}
