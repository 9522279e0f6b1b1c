//! From errors to one line, a hint and an exit code.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use welore_burn::calibrate::CalibrationError;
use welore_burn::checkpoint::CheckpointError;
use welore_burn::data::{DataError, TaskError};
use welore_burn::eval::EvalError;
use welore_burn::fit::FitError;
use welore_burn::gguf::GgufError;
use welore_burn::llama::{ConfigError, GenerateError, LoadError, SamplerError};
use welore_burn::plan::{PlanError, PlanFileError};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{PatternError, SpectraError, SpectrumError};
use welore_burn::surgery::FilesError;
use welore_burn::train::{DynamicsError, TrainError};

use crate::models::{HubError, WHAT_MODEL_IS};
use crate::terminal::is_part;

/// A mistake in what the user gave that only this crate can see.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WrongInput {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A panic of a library. GPU backends report a driver that is missing or memory that is used
/// up in no other way.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Panic {
    /// What it said.
    pub message: String,
    /// The line of code that said it.
    pub place: String,
    /// How it came there; empty unless `RUST_BACKTRACE` asks for it.
    pub backtrace: String,
}

impl Panic {
    fn of(info: &PanicHookInfo<'_>) -> Self {
        let message = info.payload_as_str().unwrap_or("unknown").trim().to_string();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => backtrace.to_string(),
            _ => String::new(),
        };
        Self { message, place, backtrace }
    }

    fn is_out_of_memory(&self) -> bool {
        let message = self.message.to_lowercase();
        ["out of memory", "outofmemory", "out_of_memory", "oom", "buffertoobig", "allocate buffer"]
            .iter()
            .any(|sign| message.contains(sign))
    }
}

/// The first panic since the last [`guarded`] call began: later ones come of it.
static FIRST_PANIC: Mutex<Option<Panic>> = Mutex::new(None);

/// Makes panics, of any thread, kept instead of printed.
pub fn keep_panics() {
    set_hook(Box::new(|info| {
        let mut first = FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Panic::of(info));
    }));
}

/// Runs work that may panic for reasons that are not ours.
///
/// # Errors
///
/// The panic.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    let first = || FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    first().take();
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| first().take().unwrap_or_default())
}

/// What an error means to the caller.
struct Verdict {
    /// The user can mend it by giving something else.
    input: bool,
    hint: Option<String>,
}

impl Verdict {
    fn input(hint: impl Into<Option<&'static str>>) -> Self {
        Self { input: true, hint: hint.into().map(String::from) }
    }

    fn failed(hint: impl Into<Option<&'static str>>) -> Self {
        Self { input: false, hint: hint.into().map(String::from) }
    }
}

/// Prints an error and gives the exit code: 2 for wrong input, 1 for everything else.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // Whoever read the result, such as `head`, has seen enough.
        return ExitCode::SUCCESS;
    }
    if is_part() && one_line(error) == Interrupted.to_string() {
        return ExitCode::FAILURE;
    }
    let verdict = judge(error);
    tell!("error: {}{}", if is_bug(error) { "internal error: " } else { "" }, message_of(error));
    if let Some(hint) = verdict.hint {
        tell!("hint: {hint}");
    }
    if let Some(panic) = error.downcast_ref::<Panic>().filter(|_| is_bug(error)) {
        tell!("{}", panic.backtrace);
    }
    ExitCode::from(if verdict.input { 2 } else { 1 })
}

/// The causes of an error, outermost first. Most messages here hold that of their cause, so
/// a cause that was said already is not said again; some span lines.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What an error says. Backends tell of memory that is used up at the end of a long list of what
/// could not be done without it.
fn message_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Panic>() {
        Some(panic) if panic.is_out_of_memory() => "out of memory on the device".into(),
        _ => one_line(error),
    }
}

/// Whether an error is a panic that nobody foresaw.
fn is_bug(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Panic>().is_some_and(|panic| !panic.is_out_of_memory())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
}

fn judge(error: &anyhow::Error) -> Verdict {
    let causes = error.chain();
    causes
        .filter_map(|cause| {
            macro_rules! first_of {
                ($($kind:ty => $judge:expr),* $(,)?) => {
                    $(if let Some(error) = cause.downcast_ref::<$kind>() {
                        #[allow(clippy::redundant_closure_call)]
                        return Some(($judge)(error));
                    })*
                };
            }
            first_of! {
                WrongInput => |e: &WrongInput| Verdict { input: true, hint: e.hint.clone() },
                Panic => panic,
                HubError => |e: &HubError| Verdict { input: e.is_input(), hint: e.hint() },
                CheckpointError => checkpoint,
                LoadError => load,
                GgufError => gguf,
                FilesError => files,
                CalibrationError => calibration,
                FitError => |e: &FitError| match e {
                    FitError::Calibration(e) => calibration(e),
                    _ => Verdict::failed(None),
                },
                SpectrumError => spectrum,
                DataError => data,
                TaskError => task,
                EvalError => eval,
                GenerateError => generate,
                PlanError => |e: &PlanError| match e {
                    PlanError::NotCalibrated { .. } => Verdict::input(
                        "give --calibration FILE, which `welore-cli calibrate` writes",
                    ),
                    _ => Verdict::input(None),
                },
                PlanFileError => |_| Verdict::input("make a plan with `welore-cli plan`"),
                SpectraError => |_| Verdict::input("measure spectra with `welore-cli analyze`"),
                PatternError => |_| Verdict::input("patterns are globs such as `q_proj` or `*.layers.3.*`"),
                SamplerError => |_| Verdict::input(None),
                TrainError => train,
                DynamicsError => |_| Verdict::input("`welore-cli train --track-gradients` writes one"),
                Interrupted => |_| Verdict::failed(None),
            }
            None
        })
        .next()
        .unwrap_or(Verdict::failed(None))
}

fn panic(panic: &Panic) -> Verdict {
    if panic.is_out_of_memory() {
        return Verdict::failed(
            "the device's memory is full: a smaller --batch-size or --seq-len, --recompute, or \
             --dtype bf16 needs less",
        );
    }
    let hint =
        format!("it happened at {}; with RUST_BACKTRACE=1 there is more to report", panic.place);
    Verdict { input: false, hint: Some(hint) }
}

fn checkpoint(error: &CheckpointError) -> Verdict {
    use CheckpointError as E;
    match error {
        E::Missing { what: "model directory", .. } => Verdict::input(WHAT_MODEL_IS),
        E::Missing { .. } => Verdict::input(
            "a model directory holds config.json, tokenizer.json and model.safetensors (or shards with their index)",
        ),
        E::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidData => Verdict::input(None),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Verdict::failed("there is not enough space; what was there before is unharmed")
            }
            _ => Verdict::failed(None),
        },
        E::Header { .. } => Verdict::input("the file is damaged or incomplete; download it again"),
        E::OutputExists { .. } => Verdict::input("use --force to replace it"),
        E::OutputForeign { .. } | E::NotADirectory { .. } | E::PartialForeign { .. } => {
            Verdict::input("give another directory")
        }
        E::OutputBusy { .. } => Verdict::input("wait for it, or give another directory"),
        E::NotStorable { .. } => Verdict::input(None),
        E::Mismatch { .. } => {
            Verdict::input("config.json and the weights must be of the same model")
        }
        E::NotFinite { .. } => Verdict::input("the weights are damaged; download them again"),
        E::TensorMissing { .. } => {
            Verdict::input("config.json and the weights must be of the same model")
        }
        E::Index { .. } | E::Dtype { .. } | E::NotMatrix { .. } => Verdict::input(None),
        E::Pivots { .. } => Verdict::input("the model is damaged; compress the dense model again"),
        E::Layout { .. } | E::Overflow { .. } | E::Linalg { .. } | E::Interrupted(_) => {
            Verdict::failed(None)
        }
    }
}

fn load(error: &LoadError) -> Verdict {
    match error {
        LoadError::Checkpoint(error) => checkpoint(error),
        LoadError::Config { source: ConfigError::Architecture(_), .. } => Verdict::input(
            "models of the LLaMA family work: LLaMA 2 and 3, Mistral, Qwen2, SmolLM2",
        ),
        LoadError::Config { .. } => Verdict::input(None),
        LoadError::Plan { .. } | LoadError::PlanDisagrees { .. } => {
            Verdict::input("compress the dense model again")
        }
    }
}

fn gguf(error: &GgufError) -> Verdict {
    use GgufError as E;
    match error {
        E::Checkpoint(error) => checkpoint(error),
        E::Io { source, .. } if source.kind() != ErrorKind::NotFound => Verdict::failed(None),
        E::Header { .. } => Verdict::input("the file is damaged or incomplete; download it again"),
        E::Architecture { .. } => {
            Verdict::input("GGUF files of LLaMA 2 and 3, Mistral, Qwen2 and SmolLM2 work")
        }
        E::TensorType { .. } => Verdict::input(
            "F32, F16, BF16, Q8_0, Q5, Q4, the K-quants Q2_K to Q6_K and IQ4 work; take another file of the model",
        ),
        E::NotFinite { .. } => Verdict::input("the weights are damaged; download them again"),
        E::Tokenizer { .. } | E::Config { .. } => {
            Verdict::input("the model's Hugging Face directory may work")
        }
        E::Interrupted(_) => Verdict::failed(None),
        E::Io { .. } | E::Metadata { .. } | E::Tensor { .. } => Verdict::input(None),
    }
}

fn files(error: &FilesError) -> Verdict {
    match error {
        FilesError::Checkpoint(error) => checkpoint(error),
        FilesError::Calibration(error) => calibration(error),
        FilesError::Oversized(_) => Verdict::input("give a larger --max-memory"),
        FilesError::ForeignPlan { .. } => {
            Verdict::input("make a plan for this model with `welore-cli plan`")
        }
        FilesError::Factored(_) => {
            Verdict::input("compress works on dense models; `export --dense` makes one")
        }
        FilesError::NotFactored { .. } => Verdict::input("it can be used as it is"),
        FilesError::Linalg { .. } => Verdict::failed(None),
    }
}

fn calibration(error: &CalibrationError) -> Verdict {
    use CalibrationError as E;
    match error {
        E::Checkpoint(error) => checkpoint(error),
        E::NotCalibration { .. } | E::Version { .. } => {
            Verdict::input("make a calibration with `welore-cli calibrate`")
        }
        E::Foreign { .. } => Verdict::input("calibrate this model"),
        E::Factored { .. } => {
            Verdict::input("this is a compressed model; `export --dense` makes a dense one of it")
        }
        E::TooShort { .. } => Verdict::input("use a longer text"),
        E::TooLittleText { .. } => {
            Verdict::input("use a longer text or more blocks, or --too-little shrink")
        }
        E::NoGradients => {
            Verdict::input("calibrate with --gradient-blocks, or use --method whitened")
        }
        E::Interrupted(_) | E::Linalg { .. } | E::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    }
}

fn spectrum(error: &SpectrumError) -> Verdict {
    match error {
        SpectrumError::Calibration(error) => calibration(error),
        SpectrumError::Checkpoint(error) => checkpoint(error),
        SpectrumError::Oversized(_) => Verdict::input("give a larger --max-memory"),
        SpectrumError::Factored { .. } => {
            Verdict::input("this is a compressed model; `export --dense` makes a dense one of it")
        }
        SpectrumError::UnmatchedPattern { meant: Some(meant), .. } => {
            Verdict { input: true, hint: Some(format!("did you mean `{meant}`?")) }
        }
        SpectrumError::UnmatchedPattern { .. } | SpectrumError::NothingSelected => Verdict::input(
            "names look like `model.layers.0.self_attn.q_proj`; `welore-cli analyze MODEL` lists them",
        ),
        SpectrumError::Layout { .. } => Verdict::input(None),
        SpectrumError::Spectra(_)
        | SpectrumError::Linalg { .. }
        | SpectrumError::Interrupted(_) => Verdict::failed(None),
    }
}

fn train(error: &TrainError) -> Verdict {
    match error {
        TrainError::Checkpoint(error) => checkpoint(error),
        TrainError::Eval(error) => eval(error),
        TrainError::NothingTrainable("lrc") => Verdict::input(
            "compress the model first, with --keep-params, --max-bytes, --err or --plan, or train it --trainable full",
        ),
        TrainError::TooFewRows { .. } => {
            Verdict::input("use more data, or a smaller --batch-size, --accumulate or --seq-len")
        }
        TrainError::NotFinite { .. } => {
            Verdict::failed("a new run with a smaller --lr or with --clip 1 may help")
        }
        TrainError::Interrupted(_) | TrainError::Evaluation(_) => Verdict::failed(None),
        TrainError::Broken { .. } | TrainError::Damaged { .. } => {
            Verdict::input("put the file back as it was, or start a new run")
        }
        TrainError::Lost { .. } => {
            Verdict::input("put it back, or move the checkpoints away to train from the start")
        }
        _ => Verdict::input(None),
    }
}

fn data(error: &DataError) -> Verdict {
    match error {
        DataError::Io { source, .. }
            if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) =>
        {
            Verdict::failed(None)
        }
        DataError::NotUtf8 { .. } => Verdict::input("convert the file to UTF-8 first"),
        DataError::Tokenizer { .. } | DataError::NoTokenizer { .. } => Verdict::input(
            "the model directory must hold the tokenizer.json of the tokenizers library",
        ),
        _ => Verdict::input(None),
    }
}

fn task(error: &TaskError) -> Verdict {
    match error {
        TaskError::Io { source, .. } if source.kind() != ErrorKind::NotFound => {
            Verdict::failed(None)
        }
        TaskError::Malformed { .. } => Verdict::input("is --task the task of this file?"),
        _ => Verdict::input(None),
    }
}

fn eval(error: &EvalError) -> Verdict {
    match error {
        EvalError::TooShort { .. } => Verdict::input("use a longer text or a smaller --seq-len"),
        EvalError::Context { .. } => Verdict::input("use a smaller --seq-len"),
        EvalError::NotFinite { .. } | EvalError::Interrupted(_) => Verdict::failed(None),
        _ => Verdict::input(None),
    }
}

fn generate(error: &GenerateError) -> Verdict {
    match error {
        GenerateError::NotFinite { .. } => Verdict::failed(None),
        _ => Verdict::input(None),
    }
}
