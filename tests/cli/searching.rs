//! Plans that are searched for on the model.

use crate::support::Sandbox;

const CALIBRATE: &str = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";
const SEARCH: &str =
    "plan model --keep-params 0.7 --calibration seen --search-windows 2 --backend flex";

#[test]
fn a_search_is_a_plan_that_is_carried_out_and_continued_from_its_journal() {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("calibrate model --text story.txt {CALIBRATE} -o seen"));
    let search = format!("{SEARCH} --policy searched --journal noted.jsonl");
    let shown = sandbox.gives(&format!("{search} --evaluations 4 -o short.json")).stdout;
    assert!(shown.contains("search     KL divergence"), "{shown}");
    let longer = sandbox.gives(&format!("{search} --evaluations 7 -o plan.json"));
    assert!(longer.stderr.contains("4 of 7 plans were measured before"), "{}", longer.stderr);
    let plan = sandbox.json_file("plan.json");
    assert_eq!((&plan["policy"], &plan["unit"]), (&"searched".into(), &"loss".into()));
    let number = |field: &str| plan["search"][field].as_f64().unwrap();
    assert!(number("kl") <= number("start_kl"));
    assert_eq!(plan["search"]["windows"], serde_json::json!([2, 64]));
    sandbox.gives("compress model --plan plan.json --calibration seen -o low");
    let low = sandbox.json("inspect low --json");
    assert!(low["plan"]["totals"]["keep_params"].as_f64().unwrap() <= 0.7);

    // A finished search measures nothing, and the journal is of no other.
    let noted = sandbox.read("noted.jsonl");
    sandbox.gives(&format!("{search} --evaluations 7 -o again.json"));
    assert_eq!(sandbox.read("again.json"), sandbox.read("plan.json"));
    assert_eq!(sandbox.read("noted.jsonl"), noted);
    sandbox.refuses(&format!("{search} --search-seed 1"), "another search");
    sandbox.write("short.txt", "a");
    let short = format!("{SEARCH} --policy searched --search-text short.txt");
    sandbox.refuses(&short, "short.txt: the text has 1 token, too few");
    assert!(!sandbox.run(&short).stderr.contains("--seq-len"), "`plan` has no --seq-len");
    sandbox.refuses("plan noted.jsonl", "noted.jsonl is the journal of a search, not a model");
    sandbox.refuses(&format!("{SEARCH} --policy bolaco --journal plan.json"), "plan.json");
    sandbox.refuses(&format!("{SEARCH} --policy bolaco --journal story.txt"), "story.txt");
}

#[test]
fn a_text_that_the_calibration_has_not_seen_can_be_the_judge() {
    let sandbox = Sandbox::new();
    let search = "plan model --keep-params 0.7 --policy bolaco --search-windows 1 \
                  --search-text story.txt --backend flex";
    let plan = sandbox.json(&format!("{search} --evaluations 3 --json"));
    assert_eq!((&plan["policy"], &plan["unit"]), (&"bolaco".into(), &"weights".into()));
    assert_eq!(plan["search"]["multipliers"].as_object().unwrap().len(), 5);
    sandbox.refuses(&format!("{search} --evaluations 1001"), "1000");
    sandbox.refuses(&search.replace("windows 1", "windows 0"), "--search-windows");
    sandbox.refuses(&search.replace("story.txt", "nowhere.txt"), "nowhere.txt");
    sandbox.write("short.txt", "Mia had an apple.");
    sandbox.refuses(&search.replace("story.txt", "short.txt"), "short.txt");
}
