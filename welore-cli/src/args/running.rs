//! Arguments of the commands that use a model.

use std::path::PathBuf;

use clap::Args;
use welore_burn::data::{ChoiceTask, TaskKind};
use welore_burn::forms::Precision;

use super::chatting::{ConversationArgs, SamplingArgs, TemplateArgs};
use super::choices::named;
use super::compression::ShardArgs;
use super::compute::ComputeArgs;
use super::general::PageArgs;
use super::texts::BosArg;

/// Arguments of `eval`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("asked").args(["task", "choices"])))]
pub struct EvalArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// LoRA adapter of the PEFT library to add to the model: the directory with its adapter_config.json
    #[arg(long, value_name = "DIR", help_heading = "Evaluation")]
    pub adapter: Option<PathBuf>,
    /// UTF-8 text or .jsonl file to measure perplexity on (of conversations, on what the assistant says);
    /// can be repeated, and each text is then measured by itself
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["task", "choices"],
        help_heading = "Evaluation"
    )]
    pub text: Vec<PathBuf>,
    /// What makes text of conversations.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Task to measure accuracy on instead, over its test examples
    #[arg(
        long,
        value_name = "NAME",
        value_parser = named::<TaskKind>(),
        requires = "data",
        conflicts_with = "text",
        help_heading = "Evaluation"
    )]
    pub task: Option<TaskKind>,
    /// Questions with choices to answer instead, by the log-likelihood of each choice, as lm-eval
    /// does it: accuracy (acc) and accuracy by length (acc_norm)
    #[arg(
        long,
        value_name = "NAME",
        value_parser = named::<ChoiceTask>(),
        requires = "data",
        conflicts_with_all = ["text", "seq_len", "bos", "stride", "skip", "against", "save_logits"],
        help_heading = "Evaluation"
    )]
    pub choices: Option<ChoiceTask>,
    /// The task's file, or a directory of its files; for --task a fifth of a single file is kept for
    /// testing, --choices asks all of it
    #[arg(
        long,
        value_name = "PATH",
        requires = "asked",
        conflicts_with = "text",
        help_heading = "Evaluation"
    )]
    pub data: Option<PathBuf>,
    /// Tokens per window of the text
    /// [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "N", conflicts_with = "task", help_heading = "Evaluation")]
    pub seq_len: Option<usize>,
    /// What begins with the token that begins texts (BOS) of the text
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t = BosArg::Auto,
        conflicts_with = "task",
        help_heading = "Evaluation"
    )]
    pub bos: BosArg,
    /// Tokens by which windows advance, at most --seq-len: of windows that overlap, only tokens that
    /// no earlier one had are scored, so each is predicted from at least --seq-len less N others
    /// [default: --seq-len]
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["task", "skip", "save_logits"],
        help_heading = "Evaluation"
    )]
    pub stride: Option<usize>,
    /// Predictions at the start of each window that are not scored, because they are made from few
    /// tokens; half of --seq-len is what llama-perplexity does
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        conflicts_with = "task",
        help_heading = "Evaluation"
    )]
    pub skip: usize,
    /// Dense model that this one was made from, or what --save-logits wrote of it: measure how far
    /// the predictions are from its own as well (KL divergence)
    #[arg(
        long,
        value_name = "DENSE",
        requires = "text",
        conflicts_with = "task",
        help_heading = "Evaluation"
    )]
    pub against: Option<PathBuf>,
    /// Maximum number of windows, examples or questions to use [default: all]
    #[arg(long, aliases = ["blocks", "limit"], value_name = "N", help_heading = "Evaluation")]
    pub windows: Option<usize>,
    /// Add the result to the model card that `compress` or `train` wrote in the directory
    #[arg(long, conflicts_with = "adapter", help_heading = "Output")]
    pub record: bool,
    /// Write the predictions of this model to a file that --against takes in its place; 2 bytes for
    /// each token and entry of the vocabulary
    #[arg(
        long,
        value_name = "FILE",
        requires = "text",
        conflicts_with_all = ["against", "task", "adapter"],
        help_heading = "Output"
    )]
    pub save_logits: Option<PathBuf>,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// LoRA adapter of the PEFT library to add to the model: the directory with its adapter_config.json
    #[arg(long, value_name = "DIR", help_heading = "Sampling")]
    pub adapter: Option<PathBuf>,
    /// Text to continue; with --chat, the user's message
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    pub prompt: String,
    /// What begins with the token that begins texts (BOS); off and on leave out what else
    /// the tokenizer adds to a prompt
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t = BosArg::Auto,
        help_heading = "Sampling"
    )]
    pub bos: BosArg,
    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Sampling")]
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Take the prompt as the user's message, and write the answer: with the model's chat template,
    /// up to the token that ends an answer
    #[arg(long, help_heading = "Chat")]
    pub chat: bool,
    /// How the conversation begins, and how it becomes text.
    #[command(flatten)]
    pub conversation: ConversationArgs,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON at the end instead of streaming the text
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["output", "gguf", "gguf_lora"])))]
pub struct ExportArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Multiply the factors together, so that any Hugging Face tool can load the model
    #[arg(long, help_heading = "Conversion")]
    pub dense: bool,
    /// LoRA adapter of the PEFT library: with --dense it is added to the matrices, with --gguf-lora it is
    /// written for llama.cpp. The directory with its adapter_config.json
    #[arg(long, value_name = "DIR", help_heading = "Conversion")]
    pub adapter: Option<PathBuf>,
    /// Directory that --changes-of wrote: write MODEL with these changes; factors stay factors unless
    /// --dense is given
    #[arg(long, value_name = "DIR", help_heading = "Conversion")]
    pub changes: Option<PathBuf>,
    /// Write only what differs between MODEL and BASE, the directory that its training began with: the
    /// tensors that have other numbers
    #[arg(long, value_name = "BASE", help_heading = "Conversion")]
    pub changes_of: Option<PathBuf>,
    /// Store all numbers in this type, rounded to the nearest [default: the type of each tensor, in a
    /// GGUF file also MXFP4]
    #[arg(long, value_parser = named::<Precision>(), help_heading = "Conversion")]
    pub dtype: Option<Precision>,
    /// Model directory to write; with --changes-of, the directory of the changes
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// GGUF file for llama.cpp to write, in place of a directory: dense, with vectors in f32
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub gguf: Option<PathBuf>,
    /// GGUF file of the --adapter to write, which llama.cpp adds to a GGUF file of MODEL with its own
    /// --lora; in f32
    #[arg(long, value_name = "FILE", requires = "adapter", help_heading = "Output")]
    pub gguf_lora: Option<PathBuf>,
    /// Replace the output directory if it is a model directory with nothing else in it
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Show what would be written, without writing anything
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// How large the files of weights are.
    #[command(flatten)]
    pub shards: ShardArgs,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `imatrix`.
#[derive(Args, Debug)]
pub struct ImatrixArgs {
    /// Calibration file from `calibrate`, or an importance matrix of the format before GGUF
    pub calibration: PathBuf,
    /// Write the importance matrix to this file, for llama.cpp's `llama-quantize --imatrix`
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Print JSON instead of a summary
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["spectra", "plan", "compare", "eval", "run", "adapter"])))]
pub struct ReportArgs {
    /// Spectra file from `analyze`
    #[arg(long, value_name = "FILE", help_heading = "Inputs")]
    pub spectra: Option<PathBuf>,
    /// Plan file from `plan`, or compressed model directory
    #[arg(long, value_name = "PATH", help_heading = "Inputs")]
    pub plan: Option<PathBuf>,
    /// Output of `compare --json`
    #[arg(long, value_name = "FILE", help_heading = "Inputs")]
    pub compare: Option<PathBuf>,
    /// Output of `eval --json`, of the compressed model or the dense one; can be repeated
    #[arg(long, value_name = "FILE", help_heading = "Inputs")]
    pub eval: Vec<PathBuf>,
    /// Run directory of `train`, with its gradients if they were tracked; can be repeated
    #[arg(long, value_name = "RUN", help_heading = "Inputs")]
    pub run: Vec<PathBuf>,
    /// Directory of a PEFT adapter; can be repeated
    #[arg(long, value_name = "DIR", help_heading = "Inputs")]
    pub adapter: Vec<PathBuf>,
    /// Title of the page
    #[arg(long, help_heading = "Output")]
    pub title: Option<String>,
    /// Also draw size against KL divergence as an SVG picture in this file
    #[arg(long, value_name = "FILE", requires = "compare", help_heading = "Output")]
    pub picture: Option<PathBuf>,
    /// Write the page to this file
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Keep the models, texts and runs in this directory
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Replace an earlier demo in that directory
    #[arg(long, requires = "output", help_heading = "Output")]
    pub force: bool,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// The page of the results.
    #[command(flatten)]
    pub page: PageArgs,
    /// Print JSON instead of a table
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}
