//! `compare`: several ways to compress, side by side. Each row is what `compress` with the same
//! options and `eval` of its result give, or a model that exists already.

mod given;
mod print;
mod requests;
mod rows;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::check_plan;
use welore_burn::eval::{PerplexityOptions, check_text};
use welore_burn::model::{Decoder, OpenedModel, load_model};
use welore_burn::modules::Selection;
use welore_burn::spectrum::Method;

use self::given::{check_series, given_models};
use self::print::Results;
use self::requests::{Request, Requested, RowGoal, check_effects};
use self::rows::Comparison;
use crate::args::{CompareArgs, TextArg, Typed, rule};
use crate::devices::{Compute, host};
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::beginning::Beginning;
use crate::shared::calibrating::CalibrationWork;
use crate::shared::compressing::{check_norms, check_other};
use crate::shared::effects::{check_blocks, check_calibrating, of_amount};
use crate::shared::identity::Identity;
use crate::shared::opening::open_known;
use crate::shared::page::{check_page, check_picture};
use crate::shared::planning::check_limits;
use crate::shared::recipe::{Recipe, check_calibration_file, open_calibration};
use crate::shared::scratch::Scratch;
use crate::shared::selecting::{check_patterns, of_model};
use crate::shared::text::{TextReader, window_of};
use crate::terminal::Bar;
use crate::{memory, models};

/// A text as tokens.
#[derive(Debug)]
pub struct Text {
    path: PathBuf,
    tokens: Vec<u32>,
    /// Tokens per window, the same for all texts.
    seq_len: usize,
    /// How windows begin, the same for all texts.
    beginning: Beginning,
}

/// Runs the command.
pub fn run(args: CompareArgs, typed: &Typed) -> Result<()> {
    memory::keep_pages();
    let begun = Instant::now();
    check_series(&args.goals)?;
    check_page(&args.page, None, inputs(&args))?;
    check_picture(args.picture.as_deref(), args.page.report.as_deref(), inputs(&args))?;
    check_calibration_file(args.calibration.as_deref())?;
    check_patterns(&args.selection)?;
    let requested = Requested::read(&args, typed)?;
    let source = Source::choose(&args, &requested, typed)?;
    let requests = requested.rows(&args, source.is_any())?;
    check_options(&args, &requests, &source, typed)?;
    let scratch = Scratch::new(true)?;
    let model = models::directory_of(&args.model)?;
    let compute = Compute::choose(args.compute.choice())?;
    let opened = open_known(&model, &host())?;
    let selection = of_model(&args.selection, opened.skeleton())?;
    check_goals(&requests, &opened.checkpoint, &selection)?;
    // No row exceeds the model by much, nor does what is kept of earlier rows.
    scratch.check_room(opened.checkpoint.bytes().saturating_mul(2))?;
    let texts = texts(&args, &model, &opened, compute.at_once())?;
    let given = given_models(&args, &opened, &texts, &compute)?;
    let started = Instant::now();
    let calibration = source.open(&args, &model, opened.skeleton(), &compute, scratch.path())?;
    let calibration_seconds = started.elapsed().as_secs_f64();
    check_calibrated(&args, &requests, calibration.as_ref())?;
    requested.tell_left_out();
    let loaded = load_model(&model, &compute.device, compute.dtype, &mut Bar::default())?;
    let mut comparison = Comparison::new(
        &args,
        loaded.checkpoint,
        selection,
        calibration.as_ref(),
        &compute,
        &texts,
        scratch.path(),
    )?;
    let mut rows = vec![comparison.dense(loaded.model)?];
    for request in &requests {
        rows.push(comparison.row(request)?);
    }
    for model in &given {
        rows.push(comparison.given(model)?);
    }
    comparison.warn();
    let identity = match args.json {
        true => Some(Identity::of(&args.model, &model, &compute)?),
        false => None,
    };
    let results = Results {
        args: &args,
        texts: &texts,
        calibration: calibration.as_ref(),
        calibration_seconds,
        rows: &rows,
        seconds: begun.elapsed().as_secs_f64(),
    };
    results.print(identity.as_ref())
}

/// What the command reads.
fn inputs(args: &CompareArgs) -> impl Iterator<Item = &Path> {
    let files = args.text.iter().chain(&args.calibration).chain(&args.goals.plan);
    let models = args.goals.given().map(|(_, model)| model);
    let texts = args.calibrate.iter().filter_map(TextArg::file);
    let files = files.map(PathBuf::as_path).chain(models).chain(texts);
    [args.model.as_path()].into_iter().chain(files)
}

/// The text that the model writes.
const OWN: &[TextArg] = &[TextArg::Own];

/// Where the calibration comes from.
#[derive(Debug)]
enum Source {
    /// There is none.
    None,
    /// A file.
    File(PathBuf),
    /// These texts.
    Texts(Vec<TextArg>),
    /// The text that the model writes, because none was named.
    Own,
}

impl Source {
    fn choose(args: &CompareArgs, requested: &Requested, typed: &Typed) -> Result<Self> {
        let plan = requested.calibrated_plan();
        let needed = requested.calibrated_method().is_some() || args.blockwise.refine > 0;
        let unused = "no method here uses a calibration";
        let reads = needed || plan.is_some();
        typed.check(["calibration", "calibrate"].map(|option| rule(option, reads, unused)))?;
        if let Some(file) = &args.calibration {
            return Ok(Self::File(file.clone()));
        }
        if let Some(path) = plan
            && (!args.other_calibration || args.calibrate.is_empty())
        {
            let message = format!("{}: the plan was made with a calibration", path.display());
            let hint = "give the same --calibration FILE, which `calibrate` or \
                        `compress --save-calibration` wrote";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        if !args.calibrate.is_empty() {
            return Ok(Self::Texts(args.calibrate.clone()));
        }
        match (needed, args.no_calibration) {
            (false, _) => Ok(Self::None),
            (true, false) => Ok(Self::Own),
            (true, true) => {
                let needs = requested.calibrated_method().map_or_else(
                    || "--refine needs a calibration".into(),
                    |name| format!("method {name} needs a calibration"),
                );
                let message = format!("--no-calibration: {needs}");
                let hint = "only method svd works on the weights alone, and without --refine";
                Err(WrongInput::with_hint(message, hint).into())
            }
        }
    }

    /// Whether there is or will be a calibration.
    fn is_any(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The texts to calibrate on; none for a file.
    fn texts(&self) -> &[TextArg] {
        match self {
            Self::None | Self::File(_) => &[],
            Self::Texts(texts) => texts,
            Self::Own => OWN,
        }
    }

    /// The calibration, made in `scratch` unless it is a file.
    fn open(
        &self,
        args: &CompareArgs,
        model: &Path,
        skeleton: &Decoder,
        compute: &Compute,
        scratch: &Path,
    ) -> Result<Option<Calibration>> {
        let file = match self {
            Self::None => return Ok(None),
            Self::File(file) => return open_calibration(Some(file), skeleton),
            Self::Texts(_) | Self::Own => scratch.join("calibration"),
        };
        let opened = open_known(model, &compute.device.clone().autodiff())?;
        let work = CalibrationWork::new(opened, self.texts(), &args.amount, None, compute)?;
        if matches!(self, Self::Own) {
            note!(
                "no calibration was given: calibrating on a text that the model writes, \
                 --calibrate self"
            );
        }
        work.run(compute, &file)?;
        Ok(Some(Calibration::open(&file)?))
    }
}

/// Checks that what was typed has an effect, and the options of the methods.
fn check_options(
    args: &CompareArgs,
    requests: &[Request],
    source: &Source,
    typed: &Typed,
) -> Result<()> {
    let recipes = || requests.iter().map(|request| &request.recipe);
    let is_sequential = recipes().any(|recipe: &Recipe| recipe.way.is_sequential);
    check_blocks(&args.blockwise, is_sequential, typed)?;
    check_effects(requests, source.is_any(), typed)?;
    typed.check(of_amount(source.texts(), &args.amount))?;
    if source.texts().is_empty() {
        return Ok(());
    }
    check_calibrating(source.texts(), &args.amount, recipes(), typed)
}

/// Checks limits and plans against the model, before anything is measured.
fn check_goals(requests: &[Request], checkpoint: &Checkpoint, selection: &Selection) -> Result<()> {
    for request in requests {
        match &request.goal {
            RowGoal::Target(options) => check_limits(options, checkpoint, selection)?,
            RowGoal::Given(given) => in_file(check_plan(checkpoint, &given.plan), &given.path)?,
        }
    }
    Ok(())
}

/// Checks that the calibration has what the methods read, and that it is that of the plans.
fn check_calibrated(
    args: &CompareArgs,
    requests: &[Request],
    calibration: Option<&Calibration>,
) -> Result<()> {
    for request in requests {
        let norms = request.recipe.norms(calibration)?;
        request.recipe.check_text(&args.blockwise, calibration)?;
        if let RowGoal::Given(given) = &request.goal
            && request.recipe.way.method != Method::Svd
        {
            check_norms(&norms, &given.plan, args.other_calibration)
                .with_context(|| given.path.display().to_string())?;
        }
    }
    let calibrated = requests.iter().filter_map(|request| match &request.goal {
        RowGoal::Given(given) if given.plan.calibration.is_some() => Some(&*given.plan),
        _ => None,
    });
    let given = calibration.filter(|_| args.calibration.is_some());
    check_other(args.other_calibration, given, calibrated)
}

/// The texts to measure perplexity on, after checking that this will work.
fn texts(
    args: &CompareArgs,
    model: &Path,
    opened: &OpenedModel,
    at_once: NonZeroUsize,
) -> Result<Vec<Text>> {
    let reader = TextReader::open(model, &opened.config, args.amount.bos)?;
    let seq_len = window_of(args.seq_len, &opened.config);
    let read = |path: &PathBuf| {
        let (tokens, beginning) = (reader.read(path)?, reader.beginning);
        let text = Text { path: path.clone(), tokens, seq_len, beginning };
        let options = measuring(args, &text, at_once);
        in_file(check_text(opened.skeleton(), &text.tokens, &options), path)?;
        Ok(text)
    };
    args.text.iter().map(read).collect()
}

/// How perplexity is measured.
fn measuring(args: &CompareArgs, text: &Text, at_once: NonZeroUsize) -> PerplexityOptions {
    PerplexityOptions {
        seq_len: text.seq_len,
        windows: Some(args.windows),
        skip: args.skip,
        bos: text.beginning.bos,
        stride: None,
        at_once,
    }
}
