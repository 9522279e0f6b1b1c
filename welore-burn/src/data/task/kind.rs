use serde::{Deserialize, Serialize};

/// The tasks that can be read.
///
/// Every task is a file, or a directory that has it under the name told here. Fields that
/// are not named here are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskKind {
    /// CommonsenseQA: lines of `question`, which has a `stem` and `choices` of `label` and
    /// `text`, and `answerKey`. Trained on `train_rand_split.jsonl` and tested on
    /// `dev_rand_split.jsonl`, since the official test set has no answers. The response is
    /// the letter.
    #[serde(rename = "commonsenseqa")]
    CommonsenseQa,
    /// SVAMP, arithmetic in words: `SVAMP.json`, an array of `Body`, `Question` and the
    /// number `Answer`. The response is the number, without decimals where it has none.
    #[serde(rename = "svamp")]
    Svamp,
    /// BoolQ: lines of `question`, `passage` and `answer`, true or false. Trained on
    /// `train.jsonl` and tested on `dev.jsonl`, which may also be called
    /// `boolq_train.jsonl` and `boolq_dev.jsonl`. The response is `True` or `False`.
    #[serde(rename = "boolq")]
    BoolQ,
    /// Coin flips: `coin_flip.json`, an object whose `examples` have `question` and
    /// `answer`, yes or no. The response is `yes` or `no`.
    #[serde(rename = "coinflip")]
    CoinFlip,
    /// BIG-bench's tracking of shuffled objects: `task.json`, an object whose `examples`
    /// have `input` and `target_scores`, which gives each choice its score. The response is
    /// the text of the choice with the highest score.
    #[serde(rename = "object-tracking")]
    ObjectTracking,
    /// StrategyQA as in BIG-bench: `task.json`, an object whose `examples` have `input` and
    /// `target_scores` of yes and no. The response is `yes` or `no`.
    #[serde(rename = "strategyqa")]
    StrategyQa,
    /// A task of your own: lines of `prompt` and `response`, both used as they are. In a
    /// directory trained on `train.jsonl` and tested on the first of `test.jsonl`,
    /// `dev.jsonl` and `valid.jsonl`.
    #[serde(rename = "jsonl")]
    Jsonl,
}

/// What the files of a task are called in a directory: the first one present counts.
pub(super) struct FileNames {
    pub train: &'static [&'static str],
    /// Empty where the task has one file for both.
    pub test: &'static [&'static str],
}

impl TaskKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::CommonsenseQa,
        Self::Svamp,
        Self::BoolQ,
        Self::CoinFlip,
        Self::ObjectTracking,
        Self::StrategyQa,
        Self::Jsonl,
    ];

    /// The name, as on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::CommonsenseQa => "commonsenseqa",
            Self::Svamp => "svamp",
            Self::BoolQ => "boolq",
            Self::CoinFlip => "coinflip",
            Self::ObjectTracking => "object-tracking",
            Self::StrategyQa => "strategyqa",
            Self::Jsonl => "jsonl",
        }
    }

    pub(super) fn file_names(self) -> FileNames {
        match self {
            Self::CommonsenseQa => {
                FileNames { train: &["train_rand_split.jsonl"], test: &["dev_rand_split.jsonl"] }
            }
            Self::Svamp => FileNames { train: &["SVAMP.json"], test: &[] },
            Self::BoolQ => FileNames {
                train: &["train.jsonl", "boolq_train.jsonl"],
                test: &["dev.jsonl", "boolq_dev.jsonl"],
            },
            Self::CoinFlip => FileNames { train: &["coin_flip.json"], test: &[] },
            Self::ObjectTracking | Self::StrategyQa => {
                FileNames { train: &["task.json"], test: &[] }
            }
            Self::Jsonl => FileNames {
                train: &["train.jsonl"],
                test: &["test.jsonl", "dev.jsonl", "valid.jsonl"],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_files_are_the_names() {
        for kind in TaskKind::ALL {
            let json = format!("\"{}\"", kind.name());
            assert_eq!(serde_json::to_string(&kind).unwrap(), json);
            assert_eq!(serde_json::from_str::<TaskKind>(&json).unwrap(), kind);
        }
    }
}
