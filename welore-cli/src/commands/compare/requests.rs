//! The rows that are asked for: ways to compress, and how far.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::forms::Storage;
use welore_burn::named::Named;
use welore_burn::plan::{PlanOptions, RankPlan, RankPolicy, Target};
use welore_burn::spectrum::{Method, SpectrumUnit};

use crate::args::{CompareArgs, MethodArgs, RANK_OPTIONS, TargetArgs, Typed, Way, names, rule};
use crate::failure::WrongInput;
use crate::shared::effects::{min_ratio, of_method};
use crate::shared::labels::{of_norm, of_target};
use crate::shared::planning::plan_in;
use crate::shared::recipe::Recipe;

/// The methods to compare if none is typed.
const METHODS: [&str; 3] = ["svd", "whitened", "best"];

/// A method to compare, with the policy and the storage that were chosen for it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    way: &'static Way,
    policy: Option<&'static dyn RankPolicy>,
    storage: Option<Storage>,
    /// Whether the policy is one of --policies: such a policy need not go with every method.
    is_listed: bool,
}

/// A row to measure.
#[derive(Debug)]
pub struct Request {
    /// How the model is compressed.
    pub recipe: Recipe,
    /// How its ranks are found.
    pub goal: RowGoal,
}

/// How the ranks of a row are found.
#[derive(Debug)]
pub enum RowGoal {
    /// They are chosen for a target.
    Target(PlanOptions),
    /// They are those of a plan.
    Given(GivenPlan),
}

/// A plan that was given.
#[derive(Debug, Clone)]
pub struct GivenPlan {
    /// The file, as it was typed.
    pub path: PathBuf,
    /// The plan.
    pub plan: Box<RankPlan>,
}

impl Request {
    /// The norm in which matrices are approximated.
    pub fn norm(&self) -> &'static str {
        of_norm(self.recipe.way.method)
    }

    /// How far the model is compressed, in a few words.
    pub fn target(&self) -> String {
        match &self.goal {
            RowGoal::Target(options) => of_target(&options.target),
            RowGoal::Given(given) => format!("plan {}", given.path.display()),
        }
    }

    /// Method, policy, storage, norm and target.
    pub fn label(&self) -> String {
        let (method, target) = (self.recipe.way.name, self.target());
        let how = match &self.goal {
            RowGoal::Target(_) => {
                format!("{method}/{}/{}", self.recipe.policy.name(), self.recipe.storage.name())
            }
            RowGoal::Given(given) => format!("{method}/{}", given.plan.policy),
        };
        format!("{how} (norm of the {}), {target}", self.norm())
    }

    /// Whether both ask for the same.
    fn is_same_as(&self, other: &Self) -> bool {
        let (one, two) = (&self.recipe, &other.recipe);
        let same_way = one.way == two.way
            && one.policy.name() == two.policy.name()
            && one.storage == two.storage;
        same_way
            && match (&self.goal, &other.goal) {
                (RowGoal::Target(a), RowGoal::Target(b)) => a == b,
                (RowGoal::Given(a), RowGoal::Given(b)) => a.plan == b.plan,
                _ => false,
            }
    }
}

/// What is asked for, before it is known whether there is a calibration.
#[derive(Debug)]
pub struct Requested {
    targets: Vec<Target>,
    entries: Vec<Entry>,
    plans: Vec<GivenPlan>,
    /// Listed policies that do not go with a method, as METHOD/POLICY.
    left_out: Vec<String>,
}

impl Requested {
    /// Reads the methods, the targets and the plans.
    pub fn read(args: &CompareArgs, typed: &Typed) -> Result<Self> {
        let targets = args.goals.targets();
        let (entries, left_out) = if targets.is_empty() {
            let only = "only with a target; plans and models were made with their own";
            typed.check(of_targets().map(|option| rule(option, false, only)))?;
            (Vec::new(), Vec::new())
        } else {
            entries(args, typed)?
        };
        let read =
            |path: &PathBuf| Ok(GivenPlan { path: path.clone(), plan: plan_in(path)?.into() });
        let plans = args.goals.plan.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { targets, entries, plans, left_out })
    }

    /// Says which listed policies are left out.
    pub fn tell_left_out(&self) {
        if !self.left_out.is_empty() {
            let names = self.left_out.join(", ");
            note!("left out, because the policy does not go with the method: {names}");
        }
    }

    /// The first method that needs a calibration, apart from those of plans, which need their own.
    pub fn calibrated_method(&self) -> Option<&'static str> {
        let mut ways = self.entries.iter().map(|entry| entry.way);
        ways.find(|way| way.method != Method::Svd).map(|way| way.name)
    }

    /// The first plan that was made with a calibration.
    pub fn calibrated_plan(&self) -> Option<&Path> {
        let mut plans = self.plans.iter();
        let found = plans.find(|given| given.plan.unit != SpectrumUnit::Weights)?;
        Some(&found.path)
    }

    /// The rows, each once: every method for one target after the other, then the plans.
    pub fn rows(&self, args: &CompareArgs, calibrated: bool) -> Result<Vec<Request>> {
        let mut rows: Vec<Request> = Vec::new();
        let mut add = |request: Request| {
            if !rows.iter().any(|row| row.is_same_as(&request)) {
                rows.push(request);
            }
        };
        for target in &self.targets {
            for entry in &self.entries {
                let (method, ranks) = entry.options(args);
                let recipe = Recipe::choose(&method, &ranks, Some(*target), calibrated)?;
                let options = recipe.plan_options(*target, &ranks)?;
                add(Request { recipe, goal: RowGoal::Target(options) });
            }
        }
        for given in &self.plans {
            let way = Way::of(Method::of_unit(given.plan.unit));
            let entry = Entry { way, policy: None, storage: None, is_listed: false };
            let (method, ranks) = entry.options(args);
            let recipe = Recipe::for_plan(&method, &ranks, &given.plan, calibrated)?;
            add(Request { recipe, goal: RowGoal::Given(given.clone()) });
        }
        Ok(rows)
    }
}

/// Whether an option on ranks is one of `compare`, which takes several policies and storages.
fn is_single(option: &&str) -> bool {
    !["policy", "storage"].contains(option)
}

/// The options that say nothing about plans that were made before.
fn of_targets() -> impl Iterator<Item = &'static str> {
    let lists = ["methods", "policies", "storages"];
    lists.into_iter().chain(RANK_OPTIONS.into_iter().filter(is_single)).chain(["no-cache"])
}

impl Entry {
    /// The options with which `compress` would do the same.
    fn options(&self, args: &CompareArgs) -> (MethodArgs, TargetArgs) {
        let method = MethodArgs {
            method: Some(self.way),
            shrink: args.shrink.clone(),
            ..MethodArgs::default()
        };
        let (policy, storage) = (self.policy, self.storage);
        (method, TargetArgs { policy, ranks: args.ranks.clone(), storage })
    }

    /// Whether its policy can use what its method measures.
    fn check(&self) -> Result<()> {
        let recipe = Recipe::of(self.way);
        Recipe { policy: self.policy.unwrap_or(recipe.policy), ..recipe }.check_policy(true)
    }
}

/// The methods, each with every listed policy and storage unless it names its own. Listed policies
/// that do not go with a method are left out; they are returned by name.
fn entries(args: &CompareArgs, typed: &Typed) -> Result<(Vec<Entry>, Vec<String>)> {
    let texts: Vec<&str> = match (args.methods.is_empty(), args.no_calibration) {
        (false, _) => args.methods.iter().map(String::as_str).collect(),
        (true, false) => METHODS.to_vec(),
        (true, true) => vec!["svd"],
    };
    let written = texts.into_iter().map(entry).collect::<Result<Vec<Entry>>>()?;
    let takes_policy = written.iter().any(|entry| entry.policy.is_none());
    let takes_storage = written.iter().any(|entry| entry.storage.is_none());
    typed.check([
        rule("policies", takes_policy, "every method names its own policy"),
        rule("storages", takes_storage, "every method names its own storage"),
    ])?;
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for entry in written.iter().flat_map(|entry| multiplied(*entry, args)) {
        match (entry.check(), entry.policy) {
            (Err(_), Some(policy)) if entry.is_listed && policy.reads().searches.is_none() => {
                let name = format!("{}/{}", entry.way.name, policy.name());
                if !left_out.contains(&name) {
                    left_out.push(name);
                }
            }
            (checked, _) => {
                checked?;
                found.push(entry);
            }
        }
    }
    if found.is_empty() {
        let names = left_out.join(", ");
        let message = format!("--policies: none goes with a method ({names})");
        let hint = "policy loss goes with two-sided, sequential and best; energy with every method";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    Ok((found, left_out))
}

/// A method with every listed policy and storage, unless it names its own.
fn multiplied(entry: Entry, args: &CompareArgs) -> Vec<Entry> {
    let policies: Vec<_> = match (entry.policy, args.policies.is_empty()) {
        (Some(_), _) | (None, true) => vec![(entry.policy, false)],
        (None, false) => args.policies.iter().map(|policy| (Some(*policy), true)).collect(),
    };
    let storages: Vec<_> = match (entry.storage, args.storages.is_empty()) {
        (Some(_), _) | (None, true) => vec![entry.storage],
        (None, false) => args.storages.iter().copied().map(Some).collect(),
    };
    let with = |(policy, is_listed)| {
        storages.iter().map(move |storage| Entry { policy, storage: *storage, is_listed, ..entry })
    };
    policies.into_iter().flat_map(with).collect()
}

/// `METHOD`, `METHOD/POLICY` or `METHOD/POLICY/STORAGE`.
fn entry(text: &str) -> Result<Entry> {
    let mut parts = text.split('/');
    let way = named::<&Way>(parts.next().unwrap_or_default())?;
    let policy = parts.next().map(named::<&dyn RankPolicy>).transpose()?;
    let storage = parts.next().map(named::<Storage>).transpose()?;
    match parts.next() {
        None => Ok(Entry { way, policy, storage, is_listed: false }),
        Some(rest) => Err(unknown(rest, "the parts METHOD/POLICY/STORAGE")),
    }
}

fn named<T: Named>(text: &str) -> Result<T> {
    T::named(&text.to_lowercase()).ok_or_else(|| unknown(text, &names::<T>()))
}

fn unknown(text: &str, names: &str) -> anyhow::Error {
    let message = format!("--methods: `{text}` is not one of {names}");
    WrongInput::with_hint(message, "give methods such as two-sided, or svd/energy/factors").into()
}

/// Checks that what was typed for the rows concerns at least one of them.
pub fn check_effects(rows: &[Request], calibrated: bool, typed: &Typed) -> Result<()> {
    let is_chosen = |row: &&Request| matches!(row.goal, RowGoal::Target(_));
    // A rule of the same option for every row: one row that it concerns is enough.
    let chosen: Vec<&Request> = rows.iter().filter(is_chosen).collect();
    let reads_ratio = chosen.iter().find(|row| row.recipe.policy.reads().min_ratio);
    if let Some(row) = reads_ratio.or(chosen.first()) {
        typed.check([min_ratio(row.recipe.policy)])?;
    }
    let most = |row: &&Request| match row.recipe.way.method {
        Method::Svd => 0,
        Method::TwoSided => 2,
        _ => 1,
    };
    if let Some(row) = rows.iter().max_by_key(most) {
        typed.check(of_method(&row.recipe))?;
    }
    let others = rows.iter().any(|row| match &row.goal {
        RowGoal::Given(given) => calibrated && given.plan.calibration.is_some(),
        RowGoal::Target(_) => false,
    });
    let only = "only where a plan is carried out with a calibration";
    typed.check([rule("other-calibration", others, only)])
}
