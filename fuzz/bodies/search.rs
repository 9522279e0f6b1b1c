//! Journals of searches.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use welore_burn::model::{DecoderConfig, LanguageModel};
use welore_burn::plan::{Bolaco, PlanOptions, RankPolicy, Searched, Target};
use welore_burn::search::{
    SearchError, SearchJob, SearchOptions, SearchOutcome, check_journal, search,
};
use welore_burn::spectrum::{Norms, Spectra};

use super::{CONFIG, LOGITS_TOKENS, check_plan, directory, logits_options, text};

const SPECTRA: &str = include_str!("../../tests/fixtures/earlier/spectra.json");

/// The policies that search, each in its own way.
pub const SEARCHING: [&dyn RankPolicy; 2] = [&Searched, &Bolaco];

/// Plans in a whole journal: more than the coordinates of `bolaco`, which looks at what was measured
/// only then.
pub const NOTED: usize = 8;

/// The search that journals are of, on the model of the fixtures.
pub fn search_fixture(
    model: &impl LanguageModel,
    policy: &dyn RankPolicy,
    options: &SearchOptions,
) -> Result<SearchOutcome, SearchError> {
    let spectra = Spectra::from_json(SPECTRA).expect("they are whole");
    let plan = PlanOptions::to(Target::KeepParams(0.6));
    let (norms, tokens) = (Norms::plain(), &LOGITS_TOKENS);
    let job = SearchJob { model, spectra: &spectra, norms, options: &plan, tokens };
    search(&job, policy, options, &mut ())
}

/// Its options, with a directory to measure in.
pub fn search_options(evaluations: usize, journal: &Path, scratch: &Path) -> SearchOptions {
    SearchOptions {
        evaluations,
        measuring: logits_options(),
        scratch: scratch.into(),
        journal: Some(journal.into()),
        ..SearchOptions::default()
    }
}

/// `plan --journal`: a search goes on from what it can have noted, which is then all that the file
/// has, and leaves what is no journal of its own alone.
pub fn journal(data: &[u8]) -> bool {
    let dir = directory(&[("journal", data)]);
    let (path, nowhere) = (dir.path().join("journal"), dir.path().join("nowhere"));
    let config = text(CONFIG).and_then(|text| DecoderConfig::from_hf_json(text).ok());
    // Plans cannot be measured anywhere, so nothing reads its weights.
    let model = config.expect("it is a configuration").init(&Device::flex());
    let mut accepted = false;
    for policy in SEARCHING {
        let run = |evaluations| {
            search_fixture(&model, policy, &search_options(evaluations, &path, &nowhere))
        };
        let before = fs::read(&path).expect("it is there");
        match run(NOTED + 1) {
            Err(
                SearchError::NotJournal { .. }
                | SearchError::Version { .. }
                | SearchError::OtherSearch { .. },
            ) => assert_eq!(fs::read(&path).ok(), Some(before), "it is left alone"),
            // What is not known cannot be measured, and some multipliers may have no plan.
            Ok(_) | Err(SearchError::File(_) | SearchError::Plan(_)) => {
                accepted = true;
                check_continued(&path, run);
            }
            Err(error) => panic!("{error}"),
        }
    }
    accepted
}

/// Checks that a search takes all that its journal has.
fn check_continued(path: &Path, run: impl Fn(usize) -> Result<SearchOutcome, SearchError>) {
    check_journal(path).expect("a search wrote it");
    let written = fs::read_to_string(path).expect("it is JSON");
    let known = (written.lines().count() - 1).min(SearchOptions::MOST);
    if known == 0 {
        return;
    }
    match run(known) {
        Ok(found) => {
            assert_eq!((found.known, found.evaluations.len()), (known, known));
            check_plan(&found.plan);
            let record = found.plan.search.expect("it says how it was found");
            assert!(record.kl <= record.start_kl, "{record:?}");
        }
        Err(SearchError::Plan(_)) => {}
        Err(error) => panic!("{error}"),
    }
}
