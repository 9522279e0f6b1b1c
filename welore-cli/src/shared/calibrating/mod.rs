//! Calibrating a model on texts, for `calibrate`, `compress` and `compare`.

mod making;
mod room;
mod trial;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::DType;
use welore_burn::calibrate::{
    CalibrationError, CalibrationOptions, CalibrationSummary, CalibrationText, OwnText,
    OwnTextOptions, TextRecord, calibrate, calibration_room, own_text, own_text_time,
    preview_calibration, share_windows,
};
use welore_burn::data::Texts;
use welore_burn::files::unfinished;
use welore_burn::forms::matrices;
use welore_burn::model::{Bos, Decoder, LanguageModel, OpenedModel, TextWindows};
use welore_burn::modules::MatrixName;

pub use self::making::Making;
use self::room::check_room;
use crate::args::{AmountArgs, BosArg, Effort, TextArg, TooLittleArg, Typed, rule};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::format;
use crate::shared::artifacts::in_file;
use crate::shared::beginning::Beginning;
use crate::shared::text::{TextReader, texts_of, warn_of_marks};
use crate::terminal::Bar;

/// Bytes of keys and values that may be in memory while the model writes: fewer samples are written
/// together if they need more.
const LARGEST_CACHE: u128 = 4 << 30;

/// Samples that are written together, if their keys and values fit.
const MOST_AT_ONCE: usize = 64;

/// More tokens than any calibration needs; they are in memory.
const MOST_TOKENS: usize = 1 << 26;

/// Texts whose tokens are spread more evenly are as good as random.
const MOST_EVEN: f64 = 0.85;

/// How much is read of which texts, unless it was typed.
#[derive(Debug, Clone, Copy)]
struct Usual {
    windows: usize,
    gradient_windows: usize,
    /// Tokens per window, unless the model's context is shorter.
    seq_len: usize,
}

impl Usual {
    /// For a model whose matrices have so many outputs and inputs at most: a second moment has as many
    /// directions, and each takes some tokens. A text that the model writes takes long.
    fn of(texts: &[TextArg], [outputs, inputs]: [usize; 2]) -> Self {
        let windows = |tokens: usize, seq_len: usize, [least, most]: [usize; 2]| {
            tokens.div_ceil(seq_len).clamp(least, most)
        };
        match texts {
            // As many tokens in shorter samples are about more things.
            [TextArg::Own] => Self {
                windows: windows(16 * inputs, 256, [128, 512]),
                gradient_windows: windows(24 * outputs, 256, [32, 128]),
                seq_len: 256,
            },
            _ => Self {
                windows: windows(96 * inputs, 512, [64, 256]),
                gradient_windows: windows(24 * outputs, 512, [16, 128]),
                seq_len: 512,
            },
        }
    }

    /// The same for an effort. With fewer than the `needed` windows, the calibration would be refused.
    fn at(self, effort: &Effort, needed: usize) -> Self {
        let needed = needed.min(self.windows);
        Self {
            windows: effort.windows(self.windows).max(needed),
            gradient_windows: effort.gradient_windows(self.gradient_windows),
            ..self
        }
    }
}

/// The most outputs and inputs of the matrices of a model that are calibrated.
fn widest(model: &Decoder) -> [usize; 2] {
    let names: BTreeSet<MatrixName> = model.matrices().into_iter().map(|of| of.name).collect();
    let shapes = matrices(model).into_iter().filter(|matrix| names.contains(&matrix.name));
    shapes.fold([0, 0], |[outputs, inputs], matrix| {
        [outputs.max(matrix.shape[0]), inputs.max(matrix.shape[1])]
    })
}

/// A model opened on its autodiff device, and the texts to calibrate it on.
#[derive(Debug)]
pub struct CalibrationWork<'a> {
    opened: OpenedModel,
    texts: Vec<Text<'a>>,
    /// How the model writes its own text, if that is one of them.
    own: Option<OwnTextOptions>,
    options: CalibrationOptions,
    /// Whether some of the texts are conversations.
    talks: bool,
}

/// A text to calibrate on.
#[derive(Debug)]
struct Text<'a> {
    named: &'a TextArg,
    /// What begins with the token that begins texts, in the text of a file.
    beginning: Option<Beginning>,
    /// Its tokens. For the text that the model has yet to write, only their number is right.
    tokens: Vec<u32>,
}

impl Text<'_> {
    fn bos(&self) -> Option<Bos> {
        self.beginning.and_then(|beginning| beginning.bos)
    }
}

/// A calibration that was made.
#[derive(Debug)]
pub struct Calibrated {
    /// What was measured.
    pub summary: CalibrationSummary,
    /// What it was measured on.
    pub texts: Vec<TextRecord>,
}

impl<'a> CalibrationWork<'a> {
    /// Tokenizes the texts for a model, conversations in the chat template of a file or in its own. They
    /// have been checked with [`check_amount`].
    pub fn new(
        opened: OpenedModel,
        texts: &'a [TextArg],
        amount: &AmountArgs,
        template: Option<&Path>,
        compute: &Compute,
    ) -> Result<Self> {
        let context = opened.config.context();
        let widest = widest(opened.skeleton());
        let options = options(texts, amount, widest, context, compute.at_once());
        let text = |named| Text { named, beginning: None, tokens: Vec::new() };
        let texts = texts.iter().map(text).collect();
        let mut work = Self { opened, texts, own: None, options, talks: false };
        work.read_files(amount.bos, template)?;
        work.plan_own(amount, compute)?;
        Ok(work)
    }

    fn read_files(&mut self, bos: BosArg, template: Option<&Path>) -> Result<()> {
        if self.texts.iter().all(|text| *text.named == TextArg::Own) {
            return Ok(());
        }
        let reader = TextReader::open(self.opened.checkpoint.dir(), &self.opened.config, bos)?;
        let reader = reader.with_template(template);
        for text in &mut self.texts {
            if let Some(path) = text.named.file() {
                let texts = texts_of(path)?;
                self.talks |= matches!(texts, Texts::Conversations(_));
                let documents = reader.documents(path, &texts)?;
                warn_of_marks(path, &documents);
                text.tokens = reader.tokens(&documents)?;
                text.beginning = Some(reader.beginning);
            }
        }
        Ok(())
    }

    /// Whether some of the texts are conversations.
    pub fn talks(&self) -> bool {
        self.talks
    }

    /// Decides how much the model writes, if it is to write a text, and puts as many tokens in its
    /// place.
    fn plan_own(&mut self, amount: &AmountArgs, compute: &Compute) -> Result<()> {
        let Some(place) = self.texts.iter().position(|text| *text.named == TextArg::Own) else {
            return Ok(());
        };
        let config = &self.opened.config;
        let seq_len = self.options.seq_len;
        let mut own = own_options(amount, seq_len);
        // A text begins with it, also where another token ends one.
        own.start = own.start.or(config.bos_token_id).or(config.eos_token_ids.first().copied());
        if amount.own.self_samples.is_none() {
            let windows = self.options.windows.unwrap_or(usize::MAX);
            let full = |text: &Text| match text.named {
                TextArg::Own => usize::MAX,
                TextArg::File(_) => TextWindows::new(&text.tokens, text.bos(), seq_len).count(),
            };
            let available: Vec<usize> = self.texts.iter().map(full).collect();
            let tokens = share_windows(&available, windows)[place].saturating_mul(seq_len);
            own.samples = tokens.div_ceil(own.length).max(1);
        }
        let start = own.check_for(self.opened.skeleton())?;
        let tokens = own.samples.saturating_mul(own.length);
        if tokens > MOST_TOKENS {
            let message = format!("the model would write {tokens} tokens of its own text");
            let hint = "give fewer --calibration-windows, or fewer --self-samples";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let cached = config.cached_values(own.length) * DType::from(compute.dtype).size() as u128;
        let fitting = usize::try_from(LARGEST_CACHE / cached.max(1)).unwrap_or(usize::MAX);
        let at_once = fitting.clamp(1, MOST_AT_ONCE);
        own.at_once = NonZeroUsize::new(at_once).unwrap_or(NonZeroUsize::MIN);
        self.texts[place].tokens = vec![start; tokens];
        self.own = Some(own);
        Ok(())
    }

    /// Lets what is measured outlive the process, for the same command to go on with.
    #[must_use]
    pub fn resumable(mut self) -> Self {
        self.options.resumable = true;
        self
    }

    /// How the model writes its own text, if it is to write one.
    pub fn own(&self) -> Option<&OwnTextOptions> {
        self.own.as_ref()
    }

    /// How the texts of files begin; `None` if there are none.
    pub fn beginning(&self) -> Option<Beginning> {
        self.texts.iter().find_map(|text| text.beginning)
    }

    /// Number of tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(|text| text.tokens.len()).sum()
    }

    /// What would be measured.
    pub fn preview(&self) -> Result<CalibrationSummary> {
        let text = mixture(&self.texts, None);
        about(preview_calibration(self.opened.skeleton(), &text, &self.options), &self.texts)
    }

    /// Checks all that can be known before the work, also that there is room for the file, and for what
    /// is in files meanwhile.
    pub fn check(&self, output: &Path) -> Result<()> {
        let summary = self.preview()?;
        let room = calibration_room(self.opened.skeleton(), &summary, &self.options)?;
        check_room(output, room)
    }

    /// Calibrates the model, on a text that it writes first if it is to write one.
    pub fn run(self, compute: &Compute, output: &Path) -> Result<Calibrated> {
        // Before the model is loaded, or has written for minutes.
        self.check(output)?;
        let Self { opened, texts, own, options, talks: _ } = self;
        let mut bar = Bar::default();
        let loaded = opened.load(compute.dtype, |_| false, &mut bar)?;
        let written = match &own {
            Some(own) => {
                tell_time(&loaded.model, own, &mut bar)?;
                let started = Instant::now();
                let text = own_text(&loaded.model, own, &mut bar)?;
                bar.finish();
                let seconds = started.elapsed().as_secs_f64();
                note!(
                    "the model wrote {} of {} tokens in {}",
                    format::number_of(own.samples, "sample"),
                    own.length,
                    format::time(seconds)
                );
                warn_of_chance(&text, loaded.model.vocab_size());
                Some(text)
            }
            None => None,
        };
        let text = mixture(&texts, written.as_ref());
        let (model, checkpoint) = (loaded.model, Some(&loaded.checkpoint));
        let done = calibrate(&model, checkpoint, &text, &options, output, &mut bar);
        bar.finish();
        if let (Err(_), Some(dir)) = (&done, unfinished(output).filter(|_| options.resumable)) {
            let dir = dir.display();
            note!("what is measured so far is kept in {dir}; the same command continues from it");
        }
        let summary = about(done, &texts)?;
        warn_of_gradients(&summary);
        Ok(Calibrated { summary, texts: text.records(options.seq_len, options.windows) })
    }
}

/// Fewer steps are not worth an estimate of their time.
const FEW_STEPS: usize = 128;

/// Says how long the model is expected to write, unless that is short.
fn tell_time(model: &Decoder, own: &OwnTextOptions, bar: &mut Bar) -> Result<()> {
    let batches = own.samples.div_ceil(own.at_once.get());
    if batches.saturating_mul(own.length) < FEW_STEPS {
        return Ok(());
    }
    let time = own_text_time(model, own, bar)?;
    bar.finish();
    note!(
        "the model writes {} of {} tokens first: expected to take about {}",
        format::number_of(own.samples, "sample"),
        own.length,
        format::time(time.as_secs_f64())
    );
    Ok(())
}

/// Warns of a text that says nothing about what the model is for.
fn warn_of_chance(text: &OwnText, vocab_size: usize) {
    if text.evenness(vocab_size) > MOST_EVEN {
        tell!(
            "warning: the text that the model wrote is nearly random; a calibration on it may be \
             worse than none. Give a text with --calibrate (--text of `calibrate`), or another \
             --self-start"
        );
    }
}

/// Warns of gradients that say little, and of tokens that say too much.
fn warn_of_gradients(summary: &CalibrationSummary) {
    let CalibrationSummary { gradient_windows, seq_len, most_outputs, uneven, .. } = *summary;
    let tokens = gradient_windows.saturating_mul(seq_len);
    if gradient_windows > 0 && tokens < most_outputs {
        tell!(
            "warning: gradients are measured on {}, fewer than a matrix has outputs \
             ({most_outputs}); more --gradient-windows tell more",
            format::number_of(tokens, "token")
        );
    }
    if uneven > 0 {
        note!("few of the tokens decide {}", format::number_of(uneven, "second moment"));
    }
}

/// The texts as the library takes them: the model's own as it was written, or its stand-in.
fn mixture(texts: &[Text<'_>], written: Option<&OwnText>) -> CalibrationText {
    let mut mixture = CalibrationText::default();
    for text in texts {
        mixture = match (text.named, written) {
            (TextArg::Own, Some(text)) => mixture.with_own(text),
            (named, _) => mixture.with_begun(name_of(named), text.tokens.clone(), text.bos()),
        };
    }
    mixture
}

/// The name of a text without the path to it, which is private.
fn name_of(text: &TextArg) -> String {
    let name = text.file().and_then(Path::file_name);
    name.map_or_else(|| text.to_string(), |name| name.to_string_lossy().into_owned())
}

/// Checks how much is to be read of which texts, before they are.
pub fn check_amount(texts: &[TextArg], amount: &AmountArgs, typed: &Typed) -> Result<()> {
    let options = options(texts, amount, [0, 0], usize::MAX, NonZeroUsize::MIN);
    options.check()?;
    let probes = rule("probe-windows", options.gradient_windows > 0, "needs --gradient-windows");
    typed.check([probes])?;
    let (windows, count) = (options.windows.unwrap_or(usize::MAX), texts.len());
    if windows < count {
        let message = format!("--calibration-windows {windows}: fewer than the {count} texts");
        return Err(WrongInput::with_hint(message, "every text gives at least one").into());
    }
    match texts.iter().filter(|text| **text == TextArg::Own).count() {
        0 => Ok(()),
        1 => Ok(own_options(amount, options.seq_len).check()?),
        _ => {
            let hint = "--self-samples says how much the model writes";
            Err(WrongInput::with_hint("the text `self` is given twice", hint).into())
        }
    }
}

/// The amount with the numbers of windows that an effort means for a model, in place of the effort: a
/// calibration depends on these.
pub fn settled(texts: &[TextArg], amount: &AmountArgs, opened: &OpenedModel) -> AmountArgs {
    let (widest, context) = (widest(opened.skeleton()), opened.config.context());
    let options = options(texts, amount, widest, context, NonZeroUsize::MIN);
    AmountArgs {
        effort: Effort::normal(),
        calibration_windows: options.windows,
        gradient_windows: Some(options.gradient_windows),
        ..amount.clone()
    }
}

/// The library's options, as far as they do not depend on the model. The number of samples is still
/// to be found if it was not given.
fn own_options(amount: &AmountArgs, seq_len: usize) -> OwnTextOptions {
    let own = &amount.own;
    OwnTextOptions {
        samples: own.self_samples.unwrap_or(1),
        length: own.self_length.unwrap_or(seq_len),
        temperature: own.self_temperature,
        seed: own.self_seed,
        start: own.self_start,
        ..OwnTextOptions::default()
    }
}

/// The library's options for a model with this context, and matrices of so many outputs and inputs at
/// most.
fn options(
    texts: &[TextArg],
    amount: &AmountArgs,
    widest: [usize; 2],
    context: usize,
    at_once: NonZeroUsize,
) -> CalibrationOptions {
    let usual = Usual::of(texts, widest);
    let seq_len = amount.calibration_seq_len.unwrap_or(usual.seq_len.min(context).max(2));
    let [_, inputs] = widest;
    let needed = inputs.div_ceil(seq_len.max(1)).max(texts.len());
    let usual = usual.at(amount.effort, needed);
    CalibrationOptions {
        seq_len,
        windows: Some(amount.calibration_windows.unwrap_or(usual.windows)),
        gradient_windows: amount.gradient_windows.unwrap_or(usual.gradient_windows),
        gradient_labels: amount.gradient_labels,
        label_seed: amount.label_seed,
        probe_windows: amount.probe_windows,
        allow_deficient: amount.too_little == TooLittleArg::Shrink,
        resumable: false,
        at_once,
    }
}

/// Names the text in the errors that are about it.
fn about<T>(result: Result<T, CalibrationError>, texts: &[Text<'_>]) -> Result<T> {
    let names = match &result {
        Err(CalibrationError::TooShort { tokens, .. }) => {
            names(texts.iter().filter(|text| text.tokens.len() == *tokens))
        }
        Err(CalibrationError::TooLittleText { .. }) => names(texts),
        _ => return Ok(result?),
    };
    in_file(result, Path::new(&names))
}

/// The names of texts, as they were typed.
fn names<'t, 'a: 't>(texts: impl IntoIterator<Item = &'t Text<'a>>) -> String {
    let names = texts.into_iter().map(|text| text.named.to_string());
    names.collect::<Vec<_>>().join(",")
}
