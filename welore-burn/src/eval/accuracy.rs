use std::num::NonZeroUsize;

use crate::data::TaskExample;
use crate::progress::{Interrupted, Progress};
use crate::workers::Workers;

/// A measured accuracy.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Share of the examples that were answered correctly.
    pub accuracy: f64,
    /// The model's answer to each example, and whether it is right.
    pub answers: Vec<(String, bool)>,
}

impl Accuracy {
    /// Number of right answers.
    pub fn right(&self) -> usize {
        self.answers.iter().filter(|(_, right)| *right).count()
    }
}

/// Accuracy of a task: `answer` continues an example's prompt, and [`TaskExample::is_answered_by`]
/// judges the result. `at_once` examples are answered at the same time.
///
/// # Errors
///
/// The first error of `answer`, or that the user stopped the work.
///
/// # Panics
///
/// Panics if `examples` is empty.
pub fn accuracy<E>(
    examples: &[TaskExample],
    at_once: NonZeroUsize,
    answer: impl Fn(&TaskExample) -> Result<String, E> + Sync,
    progress: &mut dyn Progress,
) -> Result<Accuracy, E>
where
    E: From<Interrupted> + Send,
{
    assert!(!examples.is_empty(), "there must be an example");
    progress.begin("accuracy", examples.len());
    progress.count_in("examples");
    let mut answers = vec![(String::new(), false); examples.len()];
    Workers::new(at_once).try_spread(
        examples.len(),
        |index| answer(&examples[index]),
        |index, answer| {
            let right = examples[index].is_answered_by(&answer);
            answers[index] = (answer, right);
            Ok(progress.step(&format!("example {}", index + 1))?)
        },
    )?;
    let right = answers.iter().filter(|(_, right)| *right).count();
    Ok(Accuracy { accuracy: right as f64 / examples.len() as f64, answers })
}
