//! Examples at the end of `--help`. A test parses each one as a command line.

/// For the program.
pub const PROGRAM: &str = "\
Examples:
  welore-cli demo
  welore-cli compress MODEL --keep-params 0.8 -o low
  welore-cli train low --text train.txt -o run
  welore-cli eval run/model --text test.txt

Exit codes: 0 success, 1 failure, 2 wrong usage or input, 3 no improvement with --must-improve.";

/// For `analyze`.
pub const ANALYZE: &str = "\
Examples:
  welore-cli analyze MODEL -o spectra.json
  welore-cli analyze MODEL --include q_proj,k_proj --report spectra.html";

/// For `calibrate`.
pub const CALIBRATE: &str = "\
Examples:
  welore-cli calibrate MODEL --text valid.txt -o calibration
  welore-cli calibrate MODEL --text self,valid.txt --calibration-windows 128 -o mixed
  welore-cli calibrate MODEL --text valid.txt --gradient-windows 0 -o inputs-only
  welore-cli calibrate MODEL --text valid.txt --gradient-labels model -o fisher";

/// For `imatrix`.
pub const IMATRIX: &str = "\
Examples:
  welore-cli imatrix calibration -o imatrix.gguf";

/// For `plan`.
pub const PLAN: &str = "\
Examples:
  welore-cli plan MODEL --err 0.3
  welore-cli plan spectra.json --err 0.3 --min-ratio 0 -o plan.json
  welore-cli plan MODEL --max-bytes 400MB --calibration calibration -o plan.json
  welore-cli plan MODEL --keep-params 0.8 --keep-dense \"*.layers.0.mlp.*\" --set-rank k_proj=64
  welore-cli plan MODEL --for llama.cpp --bits 4.5 -o types.json --tensor-types types.txt
  welore-cli plan MODEL --keep-params 0.8 --calibration calibration --policy searched \\
    --search-text other.txt --journal search.jsonl -o plan.json
  welore-cli plan plan.json --sort kept --filter down_proj";

/// For `compress`.
pub const COMPRESS: &str = "\
Examples:
  welore-cli compress MODEL --keep-params 0.8 -o low
  welore-cli compress MODEL --keep-params 0.8 --calibrate self,valid.txt -o low
  welore-cli compress MODEL --keep-params 0.8 --save-calibration calibration -o low
  welore-cli compress MODEL --for llama.cpp --max-bytes 100MB -o model.gguf
  welore-cli compress MODEL --for llama.cpp --plan types.json -o model.gguf
  welore-cli compress MODEL --forms channels --keep-params 0.9 -o narrow
  welore-cli compress MODEL --forms channels,pivot --keep-params 0.8 -o joint
  welore-cli compress MODEL --max-bytes 400MB --no-calibration -o low --dry-run
  welore-cli compress MODEL --err 0.3 -o low
  welore-cli compress MODEL --plan plan.json -o low

With --keep-params, --max-bytes or --for the model first writes a text of its own to calibrate on.";

/// For `compare`.
pub const COMPARE: &str = "\
Examples:
  welore-cli compare MODEL --text test.txt
  welore-cli compare MODEL --calibrate valid.txt --text test.txt --methods best \\
    --policies energy,loss --storages factors,pivot --keep-params 0.8 --err 0.3
  welore-cli compare MODEL --calibration calibration --text test.txt --plan one.json,two.json
  welore-cli compare MODEL --calibration calibration --text test.txt --methods svd,best \\
    --keep-params 0.9,0.8 --report methods.html
  welore-cli compare MODEL --text test.txt --kl --models llama.cpp=Q4_K_M.gguf,Q5_K_M.gguf \\
    --models mixed=small,smaller --picture frontier.svg";

/// For `train`.
pub const TRAIN: &str = "\
Examples:
  welore-cli train low --text train.txt -o run
  welore-cli train low --text train.txt --steps 200 --lr 1e-4 -o run --dry-run
  welore-cli train low --text conversations.jsonl -o run
  welore-cli train low --task commonsenseqa --data CommonsenseQA -o run
  welore-cli train MODEL --err 0.5 --text train.txt -o run
  welore-cli train low --text train.txt -o run --eval-text test.txt --watch-text other.txt
  welore-cli train --resume run
  welore-cli train --resume run --steps 20000";

/// For `eval`.
pub const EVAL: &str = "\
Examples:
  welore-cli eval low --text test.txt --windows 16
  welore-cli eval low --text test.txt --windows 16 --against MODEL
  welore-cli eval low --choices commonsenseqa --data CommonsenseQA
  welore-cli eval run/model --task commonsenseqa --data CommonsenseQA --json";

/// For `report`.
pub const REPORT: &str = "\
Examples:
  welore-cli report --spectra spectra.json --plan low -o page.html
  welore-cli report --plan low --eval low.json --eval dense.json --run run -o page.html
  welore-cli report --run run-a --run run-b --title \"Two runs\" -o runs.html";

/// For `generate`.
pub const GENERATE: &str = "\
Examples:
  welore-cli generate low --prompt \"The capital of France is\"
  welore-cli generate low --prompt \"Once\" --temperature 0.8 --top-p 0.95 --seed 7
  welore-cli generate low --chat --prompt \"Name three rivers.\" --system \"Be brief.\"";

/// For `chat`.
pub const CHAT: &str = "\
Examples:
  welore-cli chat low
  welore-cli chat low --system \"Answer in French.\" --temperature 0.7 --top-p 0.9
  welore-cli chat low --template chat_template.jinja --template-option enable_thinking=false

Each line is a message; /clear begins a new conversation, /exit or the end of the input ends it.
Ctrl-C ends an answer, and once more the conversation.";

/// For `export`.
pub const EXPORT: &str = "\
Examples:
  welore-cli export low --dense -o dense
  welore-cli export low --dtype bf16 -o low-bf16
  welore-cli export low --gguf low.gguf --dtype f16
  welore-cli export MODEL --adapter run/adapter --dense -o merged
  welore-cli export MODEL --adapter run/adapter --gguf-lora tuned.gguf
  welore-cli export run/model --changes-of low -o changes
  welore-cli export low --changes changes -o tuned
  welore-cli export model.gguf --dtype f16 -o model";

/// For `extract`.
pub const EXTRACT: &str = "\
Examples:
  welore-cli extract TUNED --base MODEL --rank 16 -o adapter
  welore-cli extract TUNED --base MODEL --err 0.1 --calibration calibration -o adapter
  welore-cli extract TUNED --base MODEL --max-bytes 20MB -o adapter --gguf adapter.gguf
  welore-cli extract TUNED --base MODEL --rank 16 -o adapter --text test.txt --windows 16";

/// For `repair`.
pub const REPAIR: &str = "\
Examples:
  welore-cli repair model-q4.gguf --source MODEL --rank 32 -o repair --gguf repair.gguf
  welore-cli repair model-q4.gguf --source MODEL --calibration calibration --max-bytes 20MB \\
    -o repair --gguf repair.gguf --text test.txt --windows 16";

/// For `inspect`.
pub const INSPECT: &str = "\
Examples:
  welore-cli inspect MODEL
  welore-cli inspect low --json";

/// For `demo`.
pub const DEMO: &str = "\
Examples:
  welore-cli demo
  welore-cli demo -o kept --report demo.html";

/// For `devices`.
pub const DEVICES: &str = "\
Examples:
  welore-cli devices";

/// For `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  welore-cli completions bash > ~/.local/share/bash-completion/completions/welore-cli
  welore-cli completions zsh > ~/.zfunc/_welore-cli
  welore-cli completions fish > ~/.config/fish/completions/welore-cli.fish";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::args::Cli;

    /// Splits a command line as a shell would, up to a redirection.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('"').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(String::from)),
                _ => words.push(part.to_string()),
            }
        }
        words.into_iter().take_while(|word| word != ">").collect()
    }

    #[test]
    fn examples_of_every_command_can_be_typed() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let help = help.replace("\\\n", " ");
            let lines: Vec<&str> = help.lines().filter(|line| line.starts_with("  ")).collect();
            assert!(!lines.is_empty(), "{name} has no example");
            for line in lines {
                let words = words(line);
                assert_eq!((words[0].as_str(), words[1].as_str()), ("welore-cli", name));
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
