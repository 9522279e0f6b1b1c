//! The built-in model of `demo`. `demo/README.md` describes how it was made.

use std::path::Path;

use serde_json::json;
use welore_burn::files::{FileError, write_file};
use welore_stories::Stories;

const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("model/config.json")),
    ("tokenizer.json", include_bytes!("model/tokenizer.json")),
    ("model.safetensors", include_bytes!("model/model.safetensors")),
];

/// Seeds of the stories to tune on and to evaluate on. The model was trained on the stories of
/// seed 1 and monitored on those of seed 2.
const TUNE: u64 = 3;
const TEST: u64 = 4;

/// Writes the model's files into an existing directory.
pub fn write_model(dir: &Path) -> Result<(), FileError> {
    FILES.iter().try_for_each(|(name, content)| write_file(dir.join(name), content))
}

/// Writes stories that the model has not seen. Each pair is a file and its number of stories:
/// `tune` to tune on, as JSON lines, and `test` to evaluate on, as one text.
pub fn write_stories(tune: (&Path, usize), test: (&Path, usize)) -> Result<(), FileError> {
    let lines: String = Stories::new(TUNE)
        .take(tune.1)
        .map(|story| format!("{}\n", json!({ "text": story })))
        .collect();
    write_file(tune.0, lines.as_bytes())?;
    let text: Vec<String> = Stories::new(TEST).take(test.1).collect();
    write_file(test.0, text.join("\n").as_bytes())
}
