//! Control over single matrices: forms that are fixed, lowest and highest ranks, the least that
//! factoring has to save, plans that are shown, and plans that are edited by hand.

use serde_json::{Value, json};

use crate::support::{Sandbox, without_errors};

/// The matrices of a plan whose names end like this.
fn ending<'a>(plan: &'a Value, end: &str) -> Vec<&'a Value> {
    let is_one = |matrix: &&Value| matrix["name"].as_str().unwrap().ends_with(end);
    let found: Vec<&Value> = plan["matrices"].as_array().unwrap().iter().filter(is_one).collect();
    assert!(!found.is_empty(), "{end}");
    found
}

#[test]
fn fixed_matrices_are_as_asked_and_the_others_meet_the_target() {
    let sandbox = Sandbox::new();
    let limits = "--keep-dense v_proj,*.layers.0.self_attn.q_proj --set-rank k_proj=5 \
                  --set-rank *.layers.1.mlp.up_proj=7";
    for (goal, field, most) in [
        ("--err 0.5", "err", 0.5),
        ("--keep-params 0.7 --policy welore --min-ratio 0", "keep_params", 0.7),
        ("--keep-params 0.7 --policy energy", "keep_params", 0.7),
    ] {
        let plan = sandbox.json(&format!("plan model {goal} {limits} --json"));
        for matrix in ending(&plan, "v_proj") {
            assert_eq!(
                (&matrix["form"]["kind"], &matrix["fixed"]),
                (&json!("dense"), &json!(true))
            );
        }
        for matrix in ending(&plan, "k_proj") {
            assert_eq!(matrix["form"], json!({ "kind": "factors", "rank": 5 }), "{matrix}");
        }
        assert_eq!(ending(&plan, "layers.1.mlp.up_proj")[0]["rank"], 7);
        assert!(ending(&plan, "o_proj").iter().all(|matrix| matrix.get("fixed").is_none()));
        let reached = plan["totals"][field].as_f64().unwrap();
        assert!(reached <= most && reached > most - 0.02, "{goal}: {reached}");
    }
    sandbox.gives(&format!("compress model --err 0.5 {limits} -o low"));
    let plan = sandbox.json(&format!("plan model --err 0.5 {limits} --json"));
    assert_eq!(sandbox.plan_of("low"), plan);
    let low = sandbox.json("inspect low --json");
    let names: Vec<&str> =
        low["factored"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(!names.iter().any(|name| name.ends_with("v_proj")), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with("k_proj")).count(), 4);
}

#[test]
fn ranks_and_savings_stay_within_their_limits() {
    let sandbox = Sandbox::new();
    let line = "plan model --keep-params 0.8 --policy energy --storage pivot --json";
    let factored = |options: &str| {
        let plan = sandbox.json(&format!("{line} {options}"));
        assert!(plan["totals"]["keep_params"].as_f64().unwrap() <= 0.8);
        let number = |matrix: &Value, field: &str| matrix[field].as_f64().unwrap();
        let matrices = plan["matrices"].as_array().unwrap().clone();
        let factored = matrices.into_iter().filter(|matrix| matrix["form"]["kind"] != "dense");
        let rank_and_saving = |matrix: Value| {
            let kept = number(&matrix, "parameters_after") / number(&matrix, "parameters_before");
            (number(&matrix, "rank"), 1.0 - kept)
        };
        factored.map(rank_and_saving).collect::<Vec<(f64, f64)>>()
    };
    assert!(factored("").iter().all(|(_, saving)| *saving >= 0.05), "the default");
    assert!(factored("--min-saving 0.3").iter().all(|(_, saving)| *saving >= 0.3));
    let ranks = factored("--min-rank 12 --max-rank 30 --min-saving 0");
    assert!(!ranks.is_empty() && ranks.iter().all(|(rank, _)| (12.0..=30.0).contains(rank)));
    let plan = sandbox.json(&format!("{line} --min-rank 12 --max-rank 30 --min-saving 0"));
    let stated = ["min_rank", "max_rank", "min_saving"].map(|field| plan[field].as_f64().unwrap());
    assert_eq!(stated, [12.0, 30.0, 0.0]);
    assert_eq!(sandbox.json("plan model --err 0.5 --json")["min_saving"], 0.0);
}

#[test]
fn limits_that_cannot_be_are_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    for (options, error, hint) in [
        ("--keep-dense qproj", "no planned matrix matches `qproj`", "did you mean `q_proj`?"),
        ("--keep-dense nothing", "no planned matrix matches `nothing`", "analyze MODEL"),
        ("--keep-dense [q", "`[q` is not a valid pattern", "patterns are globs"),
        ("--include k_proj --keep-dense q_proj", "no planned matrix matches `q_proj`", ""),
        ("--set-rank q_proj=64", "q_proj`: rank 64 is not above 0 and below its full rank 64", ""),
        ("--set-rank q_proj=8,*.layers.1.*=4", "`q_proj` sets rank 8, but `*.layers.1.*` sets", ""),
        ("--set-rank q_proj=8 --keep-dense q_proj", "keeps it dense, but `q_proj` sets", ""),
        ("--set-rank q_proj=8 --min-rank 9", "q_proj`: set to rank 8, it would have a rank", ""),
        ("--set-rank q_proj=60 --never-grow", "set to rank 60, it would grow", ""),
        ("--set-rank *=2", "more than ERR 0.5", "higher ranks"),
        ("--keep-dense *_proj", "the nearest is ERR 0 with 28 matrices fixed", "fewer matrices"),
        ("--min-rank 9 --max-rank 8", "max_rank 8 is below min_rank 9", "at most --max-rank"),
        ("--min-rank 40", "with min_rank 40", "a smaller --min-rank"),
        ("--min-saving 1", "min_saving 1 is not in [0, 1)", "0.05 is the default"),
    ] {
        for line in ["plan model --err 0.5", "compress model --err 0.5 -o out"] {
            let line = format!("{line} {options}");
            sandbox.refuses(&line, error);
            let said = sandbox.run(&line).stderr;
            let hinted = said.lines().nth(1).unwrap_or_default();
            assert!(hinted.contains(hint), "`{line}` hints: {hinted}");
        }
    }
    for (options, said) in [
        ("--set-rank q_proj", "must be a pattern and a rank, such as `q_proj=64`"),
        ("--set-rank =4", "must be a pattern and a rank"),
        ("--set-rank q_proj=0", "the rank of `q_proj`: must be at least 1"),
        ("--set-rank q_proj=x", "the rank of `q_proj`: must be a whole number"),
        ("--min-rank 0", "must be at least 1"),
    ] {
        sandbox.misused(&format!("compress model --err 0.5 -o out {options}"), said);
    }
    for option in ["--keep-dense q_proj", "--set-rank q_proj=4", "--min-saving 0.1"] {
        let (name, _) = option.split_once(' ').unwrap();
        sandbox.misused(&format!("compress model --plan plan.json -o out {option}"), name);
    }
}

#[test]
fn limits_hold_wherever_a_plan_is_made() {
    let sandbox = Sandbox::new();
    let line = "train model --text story.txt --err 0.5 --keep-dense q_proj --set-rank k_proj=3 \
                --seq-len 32 --batch-size 1 --steps 1 --warmup 0 -o run";
    sandbox.gives(line);
    let plan = sandbox.json_file("run/base/welore_plan.json");
    assert!(ending(&plan, "q_proj").iter().all(|matrix| matrix["form"]["kind"] == "dense"));
    assert!(ending(&plan, "k_proj").iter().all(|matrix| matrix["form"]["rank"] == 3));

    let compare = "compare model --text story.txt --keep-params 0.8 --methods svd/welore \
                   --min-ratio 0 --seq-len 64 --windows 1";
    let lrcs = |options: &str| {
        let compared = sandbox.json(&format!("{compare} --json {options}"));
        compared["rows"][1]["lrcs"].as_u64().unwrap()
    };
    assert!(lrcs("") > 16 && lrcs("--keep-dense *.mlp.*") <= 16);
    sandbox.refuses(&format!("{compare} --set-rank q_proj=64"), "below its full rank 64");
}

/// The first words of the lines of a table.
fn first_words(table: &str) -> Vec<String> {
    let table = table.split("\n\n").next().unwrap();
    let words = |line: &str| line.split_whitespace().next().unwrap().to_string();
    table.lines().skip(1).map(words).collect()
}

#[test]
fn a_plan_is_shown_sorted_and_filtered() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 -o plan.json");
    sandbox.gives("compress model --plan plan.json -o low");
    let made = sandbox.gives("plan model --err 0.5").stdout;
    assert_eq!(sandbox.gives("plan plan.json").stdout, made);
    assert_eq!(sandbox.gives("plan low").stdout, made);
    assert_eq!(without_errors(sandbox.json("plan low --json")), sandbox.json_file("plan.json"));
    assert_eq!(first_words(&made).len(), 28);

    let shown = sandbox.gives("plan plan.json --filter q_proj,k_proj --sort kept").stdout;
    let names = first_words(&shown);
    assert!(names.len() == 8 && names.iter().all(|name| !name.contains("mlp")), "{names:?}");
    let plan = sandbox.json_file("plan.json");
    let kept = |name: &String| {
        let matrix = ending(&plan, name)[0];
        let number = |field: &str| matrix[field].as_f64().unwrap();
        number("parameters_after") / number("parameters_before")
    };
    assert!(names.iter().map(kept).is_sorted(), "{shown}");
    let totals = |shown: &str| shown.rsplit("\n\n").next().unwrap().to_string();
    assert_eq!(totals(&shown), totals(&made), "they count all matrices");
    let line = "plan model --err 0.5 --filter q_proj,k_proj --sort kept";
    assert_eq!(sandbox.gives(line).stdout, shown);

    sandbox.gives("analyze model -o spectra.json");
    for source in ["model --err 0.5", "spectra.json --err 0.5", "plan.json", "low"] {
        sandbox.refuses(&format!("plan {source} --filter qproj"), "no matrix matches `qproj`");
        sandbox.misused(&format!("plan {source} --sort size"), "kept");
    }
    for source in ["model", "spectra.json", "org/name"] {
        sandbox.refuses(&format!("plan {source}"), "no target to plan for");
    }
    // A plan that was not made is missing, whatever a model there would need.
    for source in ["nowhere", "nowhere.json", "model/nowhere"] {
        sandbox.refuses(&format!("plan {source}"), &format!("{source}: no such model directory"));
    }
}

#[test]
fn a_plan_edited_by_hand_is_carried_out_and_counted_anew() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 -o plan.json");
    let before = sandbox.json_file("plan.json")["totals"].clone();
    sandbox.edit_json("plan.json", |plan| {
        for matrix in plan["matrices"].as_array_mut().unwrap() {
            let name = matrix["name"].as_str().unwrap().to_string();
            if name.ends_with("q_proj") {
                matrix["form"] = json!({ "kind": "dense" });
            } else if name.ends_with("k_proj") {
                matrix["form"] = json!({ "kind": "pivot", "rank": 4 });
                matrix["rank"] = json!(4);
            }
        }
        // A note about how the plan was made, which binds nobody afterwards.
        plan["min_rank"] = json!(20);
    });
    let counted = sandbox.json("plan plan.json --json");
    assert_ne!(counted["totals"]["parameters_after"], before["parameters_after"]);
    sandbox.gives("compress model --plan plan.json -o low");
    assert_eq!(sandbox.plan_of("low"), counted);
    let low = sandbox.json("inspect low --json");
    assert_eq!(low["parameters"], counted["totals"]["parameters_after"]);
    let forms = low["factored"].as_array().unwrap().iter();
    let of_keys = forms.filter(|m| m["name"].as_str().unwrap().ends_with("k_proj"));
    assert!(of_keys.map(|m| &m["form"]).all(|f| *f == json!({ "kind": "pivot", "rank": 4 })));
}
