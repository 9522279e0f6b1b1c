//! The model card in a compressed directory.

use crate::support::Sandbox;

const EVAL: &str = "--text story.txt --seq-len 64 --windows 2";

fn card(sandbox: &Sandbox, directory: &str) -> String {
    String::from_utf8(sandbox.read(&format!("{directory}/README.md"))).unwrap()
}

fn measured(card: &str) -> Vec<&str> {
    card.lines().filter(|line| line.starts_with("| perplexity | ")).collect()
}

#[test]
fn compressed_directory_carries_a_card_with_its_numbers_licence_and_a_way_to_load_it() {
    let sandbox = Sandbox::new();
    sandbox.write("model/README.md", "---\nlicense: mit\n---\n# The base\n");
    sandbox.gives("compress model --err 0.5 -o low");
    let card = card(&sandbox, "low");
    let plan = sandbox.json_file("low/welore_plan.json");
    let totals = &plan["totals"];
    assert!(card.starts_with("---\nlicense: mit\ntags:\n"), "{card}");
    assert!(card.contains("# model, low-rank\n"));
    let (before, after) = (&totals["parameters_before"], &totals["parameters_after"]);
    assert!(card.contains(&format!("| parameters | {before} | {after} |")), "{card}");
    assert!(card.contains("```python\nfrom transformers import "), "{card}");
    let speed = totals["expected_speed"]["many_tokens"].as_f64().unwrap();
    assert!(card.contains(&format!("Expected speed on a CPU: {speed:.2}x the")), "{card}");
    // The card reveals no directories.
    assert!(!card.contains(sandbox.path("").to_str().unwrap()));
    // A dense model has no such card.
    sandbox.gives("export low --dense -o dense");
    assert!(!sandbox.path("dense/README.md").exists());
}

#[cfg(unix)]
#[test]
fn card_of_a_linked_model_has_the_name_that_was_given() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("model", sandbox.path("mine")).unwrap();
    sandbox.gives("compress mine --err 0.5 -o low");
    let text = card(&sandbox, "low");
    assert!(text.contains("# mine, low-rank\n"), "{text}");
    let line = "train mine --err 0.5 --text story.txt --seq-len 32 --batch-size 1 --steps 1 -o run";
    sandbox.gives(line);
    assert!(card(&sandbox, "run/model").contains("# mine, low-rank\n"));
    // `.` has no name of its own.
    let mut here = sandbox.command("compress . --err 0.5 -o ../here");
    assert!(here.current_dir(sandbox.path("model")).output().unwrap().status.success());
    assert!(card(&sandbox, "here").contains("# model, low-rank\n"));
}

#[test]
fn measured_quality_is_recorded_on_request_and_goes_when_the_model_is_trained() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let before = card(&sandbox, "low");
    sandbox.gives(&format!("eval low {EVAL}"));
    assert_eq!(card(&sandbox, "low"), before);
    let result = sandbox.json(&format!("eval low {EVAL} --record --json"));
    let text = card(&sandbox, "low");
    let value = format!("{:.4}", result["perplexity"].as_f64().unwrap());
    let expected = format!("| perplexity | {value} | story.txt, 2 windows of 64 tokens |");
    assert!(measured(&text)[0].starts_with(&expected), "{text}");
    sandbox.gives(&format!("eval low {EVAL} --record"));
    assert_eq!(card(&sandbox, "low"), text);

    sandbox.gives("train low --text story.txt --seq-len 32 --batch-size 1 --steps 1 -o run");
    let tuned = card(&sandbox, "run/model");
    assert!(tuned.contains("Fine-tuned after compression: its LRCs, 1 step, "), "{tuned}");
    assert!(measured(&tuned).is_empty());
    let line =
        "train model --err 0.5 --text story.txt --seq-len 32 --batch-size 1 --steps 1 -o two";
    sandbox.gives(line);
    assert!(card(&sandbox, "two/model").contains("# model, low-rank\n"));
}

#[test]
fn other_directories_have_no_place_for_a_score() {
    let sandbox = Sandbox::new();
    sandbox.refuses(&format!("eval model {EVAL} --record"), "README.md");
    sandbox.write("model/README.md", "# Mine\n");
    sandbox.refuses(&format!("eval model {EVAL} --record"), "README.md");
    assert_eq!(sandbox.read("model/README.md"), b"# Mine\n");
}

#[cfg(unix)]
#[test]
fn score_is_recorded_through_a_link_but_not_outside_of_the_directory() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let line = format!("eval low {EVAL} --record");
    let move_card = |to: &str| {
        std::fs::rename(sandbox.path("low/README.md"), sandbox.path("low").join(to)).unwrap();
        std::os::unix::fs::symlink(to, sandbox.path("low/README.md")).unwrap();
    };
    move_card("CARD.md");
    sandbox.gives(&line);
    assert!(sandbox.path("low/README.md").is_symlink());
    assert_eq!(measured(&card(&sandbox, "low")).len(), 1);
    sandbox.remove("low/README.md");
    std::fs::rename(sandbox.path("low/CARD.md"), sandbox.path("low/README.md")).unwrap();
    move_card("../outside.md");
    // Before anything is measured.
    let line = line.replace("story.txt", "nowhere.txt");
    sandbox.refuses(&line, "low/README.md leads out of the model directory");
}
