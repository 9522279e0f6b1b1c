//! What is typed has an effect, or is refused before any work.

use std::collections::BTreeSet;

use crate::support::Sandbox;

/// The options that have an effect wherever the parser accepts them, for each command. An option
/// that is neither here nor in [`IDLE`] fails the first test.
const ALWAYS: [(&str, &str); 17] = [
    ("analyze", "output report json include exclude convolutions jobs max-memory no-cache"),
    (
        "calibrate",
        "text output calibration-windows gradient-windows calibration-seq-len too-little dry-run \
         json backend device dtype",
    ),
    ("imatrix", "output json"),
    (
        "plan",
        "err err-applied keep-params max-bytes for output report json policy rank-multiple never-grow storage \
         keep-dense set-rank min-rank max-rank min-saving include exclude convolutions",
    ),
    (
        "compress",
        "plan err err-applied keep-params max-bytes output for forms force dry-run shard-size report json policy \
         rank-multiple never-grow storage keep-dense set-rank min-rank max-rank min-saving method refine \
         choose-storage include exclude convolutions jobs max-memory",
    ),
    (
        "compare",
        "text windows seq-len skip bos kl no-calibration keep-params max-bytes err err-applied plan models jobs \
         max-memory refine backend device dtype report picture json csv",
    ),
    (
        "train",
        "resume adapter output dry-run text task data plan err err-applied keep-params max-bytes from-scratch epochs \
         trainable seq-len batch-size accumulate steps lr schedule warmup weight-decay clip \
         no-shuffle recompute save-every backend device dtype report json",
    ),
    (
        "eval",
        "adapter text task choices data seq-len skip bos stride windows against save-logits record json backend device dtype",
    ),
    ("report", "spectra plan compare eval run adapter title picture output"),
    ("generate", "adapter prompt max-new-tokens temperature chat backend device dtype json"),
    (
        "chat",
        "max-new-tokens temperature system history template template-option backend device dtype",
    ),
    ("export", "output gguf gguf-lora dry-run json"),
    (
        "extract",
        "base rank err max-params max-bytes calibration output gguf force dry-run json text windows \
         seq-len include exclude jobs max-memory",
    ),
    (
        "repair",
        "source rank err max-params max-bytes calibration output gguf force dry-run json text \
         windows seq-len include exclude jobs max-memory",
    ),
    ("inspect", "json"),
    ("demo", "output force report json backend device dtype"),
    ("devices", "json"),
];

/// Command lines with options that would have no effect. Files that are named need not exist,
/// because options are looked at first.
const IDLE: [(&str, &str); 15] = [
    (
        "plan model --err 0.5",
        "shrink-inputs=0.1 shrink-gradients=0.1 evaluations=3 search-seed=1 search-text=story.txt \
         search-windows=2 journal=noted backend=flex device=0 dtype=f32",
    ),
    ("plan model --err 0.5 --method svd", "calibration=seen"),
    ("plan model --err 0.5 --policy energy", "min-ratio=0.2"),
    ("plan model --err 0.5 --calibration seen --method whitened", "shrink-gradients=0.1"),
    ("plan spectra.json --err 0.5", "jobs=2 max-memory=1GB no-cache method=svd shrink-inputs=1"),
    (
        "compress model --err 0.5 -o out",
        "distill distill-windows=2 follow=0.2 no-adapt-dense fit-windows=4 refine-lr=0.1 \
         calibration-windows=4 gradient-windows=4 gradient-labels=model label-seed=1 \
         probe-windows=4 calibration-seq-len=32 too-little=shrink self-samples=2 self-length=32 \
         self-temperature=2 self-seed=1 self-start=1 shrink-inputs=0.1 shrink-gradients=0.1 \
         backend=flex device=0 dtype=f32",
    ),
    ("compress model --err 0.5 --policy energy -o out", "min-ratio=0.2"),
    ("compress model --err 0.5 --method svd -o out", "calibration=seen calibrate=story.txt"),
    ("compress model --plan plan.json -o out", "no-cache other-calibration"),
    (
        "compress model --keep-params 0.8 --calibration seen -o out",
        "distill-windows=2 follow=0.2 no-adapt-dense refine-lr=0.1 min-ratio=0.5 backend=flex calibration-windows=4 \
         effort=quick effort=normal effort=thorough",
    ),
    (
        "compress model --keep-params 0.8 --calibration seen --method sequential -o out",
        "dtype=bf16",
    ),
    (
        "compare model --text story.txt --calibration seen",
        "follow=0.2 no-adapt-dense fit-windows=4 refine-lr=0.1 calibration-windows=4 gradient-windows=4 \
         gradient-labels=model label-seed=1 effort=quick \
         probe-windows=4 calibration-seq-len=32 too-little=shrink self-samples=2 self-length=32 \
         self-temperature=2 self-seed=1 self-start=1",
    ),
    (
        "train model --text story.txt --trainable full --schedule constant --no-shuffle \
         --seq-len 64 -o run",
        "lr-floor=0.5 seed=3 eval-windows=2 policy=welore min-ratio=0.5 rank-multiple=2 never-grow \
         storage=pivot keep-dense=q_proj set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 \
         include=q_proj exclude=q_proj lora-rank=2 lora-alpha=2 galore-rank=2 \
         galore-refresh=2 galore-scale=2 patience=2 eval-every=3 eval-seq-len=32 must-improve \
         watch-text=story.txt template=chat.jinja",
    ),
    (
        "generate model --prompt Mia",
        "seed=3 top-k=3 top-p=0.5 system=Rhyme. history=before.json template=chat.jinja \
         template-option=thinking=false",
    ),
    ("chat model", "seed=3 top-k=3 top-p=0.5"),
];

/// More of the same.
const IDLE_TOO: [(&str, &str); 61] = [
    ("generate model --prompt Mia --chat", "bos=off"),
    ("calibrate model --text self --self-samples 4 -o seen", "bos=off"),
    ("compress model --err 0.5 -o out", "bos=off"),
    ("compress model --forms channels --keep-params 0.9 -o out", "bos=off"),
    ("plan model --err 0.5", "bos=off"),
    ("train model --task jsonl --data task.jsonl -o run", "bos=off"),
    (
        "calibrate model --text story.txt --calibration-windows 4 --gradient-windows 2 -o seen",
        "effort=quick effort=thorough",
    ),
    ("calibrate model --text self --self-samples 4 -o seen", "effort=quick effort=thorough"),
    ("compress model --plan plan.json --calibration seen -o out", "effort=thorough"),
    ("compress model --err 0.5 -o out", "rounding=nearest"),
    ("compress model --keep-params 0.8 --no-calibration -o out", "rounding=fitted"),
    (
        "compress model --keep-params 0.8 --calibration seen --method sequential --follow 0 -o out",
        "no-adapt-dense",
    ),
    (
        "compress model --err 0.5 -o out",
        "types=q8_0 save-types=types.json no-measure widths=each width-multiple=16",
    ),
    ("compress model -o out", "bits=4.5"),
    (
        "compress model --for llama.cpp --plan types.json --calibration seen -o out.gguf",
        "types=q8_0 save-types=other.json",
    ),
    ("plan model", "bits=4.5"),
    (
        "plan model --err 0.5",
        "types=q8_0 no-measure tensor-types=types.txt calibrate=story.txt save-calibration=kept effort=quick \
         calibration-windows=4 gradient-windows=4 gradient-labels=model label-seed=1 \
         probe-windows=4 calibration-seq-len=32 too-little=shrink self-samples=2 self-length=32 \
         self-temperature=2 self-seed=1 self-start=1 backend=flex device=0 dtype=f32",
    ),
    (
        "plan model --for llama.cpp --max-bytes 1GB --calibration seen",
        "policy=loss min-ratio=0.2 rank-multiple=2 never-grow storage=pivot keep-dense=q_proj \
         set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 include=q_proj exclude=q_proj \
         method=two-sided shrink-inputs=1 shrink-gradients=1 report=page.html sort=kept \
         filter=q_proj save-calibration=kept calibration-windows=4 gradient-windows=4 effort=thorough",
    ),
    ("plan model --for llama.cpp --bits 4.5", "probe-windows=2"),
    (
        "compress model --forms channels --keep-params 0.9 --calibration seen -o out",
        "policy=loss min-ratio=0.2 rank-multiple=2 never-grow storage=pivot keep-dense=q_proj \
         set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 method=two-sided shrink-gradients=1 \
         follow=0.2 no-adapt-dense fit-windows=4 refine=1 refine-lr=0.1 types=q8_0 no-measure \
         save-types=types.json \
         report=page.html no-cache save-calibration=kept calibration-windows=4 gradient-windows=4 \
         effort=thorough backend=flex device=0 dtype=f32 distill distill-windows=2",
    ),
    (
        "compress model --forms channels,pivot --keep-params 0.9 --calibration seen -o out",
        "storage=factors min-ratio=0.2 follow=0.2 fit-windows=4 refine=1 refine-lr=0.1 distill \
         distill-windows=2 types=q8_0 no-measure save-types=types.json report=page.html \
         convolutions save-calibration=kept calibration-windows=4 gradient-windows=4 \
         rounding=nearest choose-storage probe-windows=2 backend=flex device=0 dtype=f32 \
         effort=thorough",
    ),
    (
        "compress model --for llama.cpp --max-bytes 1GB --calibration seen -o out.gguf",
        "policy=loss min-ratio=0.2 rank-multiple=2 never-grow storage=pivot keep-dense=q_proj \
         set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 include=q_proj exclude=q_proj \
         method=two-sided shrink-inputs=1 shrink-gradients=1 follow=0.2 no-adapt-dense fit-windows=4 \
         refine=1 refine-lr=0.1 distill distill-windows=2 force shard-size=1GB report=page.html \
         save-calibration=kept \
         calibration-windows=4 gradient-windows=4",
    ),
    ("extract tuned --base model --rank 2 -o out", "backend=flex device=0 dtype=f32"),
    ("repair low --source model --rank 2 -o out", "backend=flex device=0 dtype=f32 no-types"),
    (
        "export model --gguf out.gguf",
        "dense shard-size=1GB force adapter=tuned changes=changes changes-of=low",
    ),
    (
        "export model --changes-of low -o out",
        "dense dtype=f32 adapter=tuned changes=changes shard-size=1GB",
    ),
    ("export model --gguf-lora out.gguf --adapter tuned", "dense shard-size=1GB force dtype=bf16"),
    ("plan model --err 0.5 --json", "sort=kept filter=q_proj"),
    (
        "plan plan.json",
        "output=other.json policy=welore min-ratio=0.2 rank-multiple=2 never-grow storage=pivot \
         keep-dense=q_proj set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 include=q_proj \
         exclude=q_proj method=svd calibration=seen shrink-inputs=1 shrink-gradients=1 jobs=2 \
         max-memory=1GB no-cache evaluations=3 journal=noted",
    ),
    ("train model --text story.txt --trainable lora -o run", "track-gradients=2"),
    ("train model --text story.txt --err 0.5 --policy energy -o run", "min-ratio=0.2"),
    ("train model --text story.txt --eval-every 0 -o run", "eval-text=story.txt"),
    (
        "train model --text story.txt --seq-len 32 --batch-size 1 --trainable full --steps 4 \
         --eval-text story.txt --eval-every 9 -o run",
        "eval-windows=1 eval-seq-len=32 must-improve watch-text=story.txt",
    ),
    (
        "train model --text story.txt --seq-len 32 --batch-size 1 --trainable full --steps 4 \
         --eval-text story.txt -o run",
        "patience=1",
    ),
    (
        "compare model --text story.txt --plan plan.json",
        "methods=svd policies=energy storages=pivot min-ratio=0.2 rank-multiple=2 never-grow \
         keep-dense=q_proj set-rank=q_proj=2 min-rank=2 max-rank=9 min-saving=0 include=q_proj \
         exclude=q_proj no-cache other-calibration",
    ),
    (
        "compare model --text story.txt --methods svd/energy",
        "calibration=seen calibrate=story.txt shrink-inputs=0.1 policies=welore min-ratio=0.2",
    ),
    ("compare model --text story.txt --methods svd/energy/pivot", "storages=factors"),
    (
        "compare model --text story.txt --calibration seen --methods whitened",
        "shrink-gradients=1 effort=thorough",
    ),
    (
        "calibrate model --text story.txt -o seen --gradient-windows 0",
        "probe-windows=2 gradient-labels=model",
    ),
    ("calibrate model --text story.txt -o seen", "label-seed=1 template=chat.jinja"),
    ("eval model --text story.txt", "template=chat.jinja"),
    ("eval model --task jsonl --data task.jsonl", "template=chat.jinja"),
    (
        "calibrate model --text ./self,story.txt -o seen",
        "self-samples=2 self-length=32 self-temperature=2 self-seed=1 self-start=1",
    ),
    (
        "compress model --keep-params 0.8 --no-calibration -o out",
        "min-ratio=0.2 calibration-windows=4 self-seed=1 self-start=1 backend=flex device=0 \
         effort=thorough",
    ),
    ("compress model --err 0.5 -o out", "no-calibration"),
    ("compress model --err 0.5 --method svd -o out", "no-calibration"),
    ("compress model --keep-params 0.8 --method svd -o out", "no-calibration"),
    ("compress model --plan plan.json -o out", "no-calibration"),
    ("compress model --err 0.5 -o out", "save-calibration=kept"),
    ("compress model --keep-params 0.8 --no-calibration -o out", "save-calibration=kept"),
    ("compress model --keep-params 0.8 --calibration seen -o out", "save-calibration=kept"),
    ("plan model --keep-params 0.8", "min-ratio=0.2"),
    ("train model --text story.txt --keep-params 0.8 -o run", "min-ratio=0.2"),
    (
        "compress model --keep-params 0.8 --calibrate story.txt --method whitened -o out",
        "self-samples=2 self-seed=1",
    ),
    (
        "compress model --keep-params 0.8 --calibrate story.txt --gradient-windows 0 \
         --method whitened -o out",
        "probe-windows=2 shrink-gradients=0.1",
    ),
    ("compress model --err 0.4 --calibrate story.txt -o out", "probe-windows=3"),
    ("compress model --err 0.4 --calibrate story.txt --policy loss -o out", "probe-windows=3"),
    (
        "compress model --err 0.4 --calibrate story.txt --method whitened -o out",
        "gradient-windows=3 probe-windows=3 gradient-labels=model label-seed=1",
    ),
    (
        "compress model --err 0.4 --calibrate story.txt --method svd --refine 1 -o out",
        "gradient-windows=3",
    ),
    ("compare model --text story.txt --calibrate story.txt --methods svd,best", "probe-windows=3"),
    (
        "compare model --text story.txt --calibrate story.txt --methods svd,whitened",
        "gradient-windows=3",
    ),
];

fn idle() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = IDLE.into_iter().chain(IDLE_TOO);
    lines.flat_map(|(line, options)| options.split_whitespace().map(move |option| (line, option)))
}

#[test]
fn every_option_of_every_command_is_accounted_for() {
    let sandbox = Sandbox::new();
    let reference = sandbox.gives("reference").stdout;
    let sections = reference.split("\n## ").skip(2);
    for section in sections {
        let command = section.lines().next().unwrap();
        let lines = section.lines().filter_map(|line| line.strip_prefix("- `"));
        let found: BTreeSet<&str> = lines.filter_map(option_of).collect();
        let always = ALWAYS.iter().find(|(name, _)| *name == command).map_or("", |(_, all)| all);
        let sometimes = idle().filter(|(line, _)| line.starts_with(&format!("{command} ")));
        let sometimes = sometimes.map(|(_, option)| option.split('=').next().unwrap());
        let known: BTreeSet<&str> = always.split_whitespace().chain(sometimes).collect();
        assert_eq!(found, known, "{command}");
    }
}

/// The long name of the option that a line of the reference describes.
fn option_of(line: &str) -> Option<&str> {
    let name = line.split("--").nth(1)?;
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()
}

#[test]
fn what_would_have_no_effect_is_refused_by_name() {
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    sandbox.gives("plan spectra.json --err 0.5 -o plan.json");
    for (line, option) in idle() {
        let name = option.split('=').next().unwrap();
        sandbox.refuses(&format!("{line} --{option}"), &format!("--{name}"));
    }
}

#[test]
fn options_on_numbers_of_16_bits_are_refused_where_there_are_none() {
    let sandbox = Sandbox::new();
    sandbox.gives("export model --dtype f32 -o wide");
    sandbox.gives("analyze wide -o spectra.json");
    sandbox.gives("plan spectra.json --err 0.5 --storage pivot -o plan.json");
    for how in ["--err 0.5 --storage pivot", "--plan plan.json"] {
        for option in ["--choose-storage", "--rounding nearest"] {
            let line = format!("compress wide {how} -o out {option}");
            let named = option.split(' ').next().unwrap();
            sandbox.refuses(&line, &format!("{named}: no matrix is stored in 16 bits"));
        }
    }
    // Of a plan with matrices that stay dense, those that were compared are counted.
    let line = "compress model --err 0.5 --set-rank q_proj=8 -o out --choose-storage --dry-run";
    let told = sandbox.gives(line).stderr;
    let factored = sandbox.json(&format!("{line} --json"))["totals"]["lrcs"].as_u64().unwrap();
    let counted = told.lines().find(|line| line.contains("nearer in the other storage")).unwrap();
    let of = counted.split(" of ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(of.parse::<u64>().unwrap() < factored, "{told}");
}

/// A file of settings is for many commands.
#[test]
fn settings_that_have_no_effect_are_left_out_of_a_file() {
    let sandbox = Sandbox::new();
    let settings = "[compress]\nfollow = 0.3\nmin-ratio = 0.2\ncalibration-windows = 8\n\
                    [generate]\nseed = 3\n";
    sandbox.write("settings.toml", settings);
    sandbox.gives("compress model --err 0.5 --policy energy -o low --config settings.toml");
    sandbox.gives("generate model --prompt Mia --max-new-tokens 2 --config settings.toml");
}

/// The text is missing, so that work on it would fail with another message.
#[test]
fn mistakes_are_found_before_the_work_that_they_would_waste() {
    let sandbox = Sandbox::new();
    let calibrate = "compress model --keep-params 0.8 --calibrate nowhere.txt -o out";
    let compare = "compare model --text nowhere.txt --calibrate nowhere.txt";
    for (line, named) in [
        (format!("{calibrate} --gradient-windows 0"), "--gradient-windows"),
        (format!("{calibrate} --policy probed"), "probes"),
        (format!("{calibrate} --policy loss --method whitened"), "policy loss"),
        (format!("{calibrate} --calibration-windows 0"), "at least one window"),
        (format!("{calibrate} --calibration-seq-len 1"), "at least 2 tokens"),
        (format!("{calibrate} --method sequential --follow 2"), "--follow"),
        (format!("{calibrate} --refine 1 --refine-lr 0"), "--refine-lr"),
        (format!("{calibrate} --refine 18446744073709551615"), "--refine: must be at most 1000000"),
        (format!("{compare} --refine 1000001"), "--refine: must be at most 1000000"),
        ("compare model --text nowhere.txt --calibrate story.txt".into(), "nowhere.txt"),
        ("compare model --text story.txt --calibrate nowhere.txt --windows 0".into(), "window"),
        (format!("{calibrate} --include nosuch"), "`nosuch`"),
        (format!("{calibrate} --keep-dense nosuch"), "`nosuch`"),
        (format!("{calibrate} --set-rank q_proj=64"), "below its full rank 64"),
        (format!("{compare} --keep-dense nosuch"), "`nosuch`"),
        (format!("{compare} --set-rank q_proj=8,*.layers.0.*=4"), "sets rank 4"),
        ("train model --text nowhere.txt --err 0.5 --policy loss -o run".into(), "--policy loss"),
        (format!("{compare} --gradient-windows 0"), "--gradient-windows"),
        (format!("{compare} --methods svd/loss"), "policy loss"),
        (format!("{compare} --methods best/probed"), "probes"),
        ("calibrate model --text nowhere.txt -o seen --calibration-windows 0".into(), "window"),
        ("calibrate model --text self,nowhere.txt -o seen --self-length 1".into(), "2 tokens"),
        (format!("{compare},self --self-temperature 0"), "temperature"),
        ("compress model --keep-params 0.8 --policy probed -o out".into(), "probed"),
        ("plan model --keep-params 0.8 --policy loss".into(), "loss"),
        (format!("{calibrate} --policy searched"), "policy `searched`"),
        (format!("{compare} --methods best/bolaco"), "policy `bolaco`"),
        (format!("{compare} --policies searched,loss"), "policy `searched` searches"),
        (
            "compress model --keep-params 0.8 --no-calibration --policy bolaco -o out".into(),
            "bolaco",
        ),
        ("train model --text nowhere.txt --err 0.5 --policy searched -o run".into(), "searched"),
        ("plan model --keep-params 0.8 --policy searched".into(), "no text"),
    ] {
        sandbox.refuses(&line, named);
    }
}
