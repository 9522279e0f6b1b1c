use crate::named::named;

/// The tasks that can be read.
///
/// Every task is a file, or a directory that has the file under the name given here. Other fields
/// than those named here are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskKind {
    /// CommonsenseQA: objects, one per line, with `question`, which has a `stem` and `choices` of
    /// `label` and `text`, and with `answerKey`. Training reads `train_rand_split.jsonl` and
    /// testing `dev_rand_split.jsonl`, since the official test set has no answers. The response is
    /// the letter of the right choice.
    CommonsenseQa,
    /// SVAMP, arithmetic word problems: `SVAMP.json`, an array of objects with `Body`, `Question`
    /// and the number `Answer`. The response is the number, without decimals if it is whole.
    Svamp,
    /// BoolQ: objects, one per line, with `question`, `passage` and `answer`, true or false.
    /// Training reads `train.jsonl` and testing `dev.jsonl`, which may also be called
    /// `boolq_train.jsonl` and `boolq_dev.jsonl`. The response is `True` or `False`.
    BoolQ,
    /// Coin flips: `coin_flip.json`, an object whose `examples` have `question` and
    /// `answer`, yes or no. The response is `yes` or `no`.
    CoinFlip,
    /// BIG-bench's tracking of shuffled objects: `task.json`, an object whose `examples` have
    /// `input` and `target_scores`, a score for each choice. The response is the text of the choice
    /// with the highest score.
    ObjectTracking,
    /// StrategyQA as in BIG-bench: `task.json`, an object whose `examples` have `input` and
    /// `target_scores` of yes and no. The response is `yes` or `no`.
    StrategyQa,
    /// A task of your own: objects, one per line, with `prompt` and `response`, both used as they
    /// are. In a directory, training reads `train.jsonl` and testing the first of `test.jsonl`,
    /// `dev.jsonl` and `valid.jsonl` that is present.
    Jsonl,
}

/// Names that a task's files may have in a directory; the first one present counts.
pub(super) struct FileNames {
    pub train: &'static [&'static str],
    /// Empty if the task has one file for both.
    pub test: &'static [&'static str],
}

named!(TaskKind {
    CommonsenseQa => "commonsenseqa", "CommonsenseQA, multiple choice";
    Svamp => "svamp", "SVAMP, arithmetic word problems";
    BoolQ => "boolq", "BoolQ, yes or no about a passage";
    CoinFlip => "coinflip", "coin flips, yes or no";
    ObjectTracking => "object-tracking", "BIG-bench's tracking of shuffled objects";
    StrategyQa => "strategyqa", "StrategyQA, yes or no";
    Jsonl => "jsonl", "objects with a `prompt` and a `response`, one per line";
});

impl TaskKind {
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
    use crate::named::Named;

    #[test]
    fn names_in_files_are_the_names() {
        for kind in TaskKind::all() {
            let json = format!("\"{}\"", kind.name());
            assert_eq!(serde_json::to_string(kind).unwrap(), json);
            assert_eq!(serde_json::from_str::<TaskKind>(&json).unwrap(), *kind);
        }
    }
}
