//! The top of a page: how big, how good, how fast, and what was done, as far as artifacts say.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::support::Sandbox;
use crate::training::SHORT;

/// The rows under a question at the top of a page.
fn answers(sandbox: &Sandbox, page: &str, question: &str) -> Vec<Value> {
    let html = String::from_utf8(sandbox.read(page)).unwrap();
    let start = html.find("type=\"application/json\">").unwrap() + 24;
    let end = start + html[start..].find("</script>").unwrap();
    let data: Value = serde_json::from_str(&html[start..end]).unwrap();
    let groups = data["opening"].as_array().expect("the page opens with answers");
    let group = groups.iter().find(|group| group["question"] == question);
    group.map_or(Vec::new(), |group| group["rows"].as_array().unwrap().clone())
}

/// The only row whose name begins like this.
fn row<'a>(rows: &'a [Value], begins: &str) -> &'a Value {
    let mut of = rows.iter().filter(|row| row["what"].as_str().unwrap().starts_with(begins));
    let (row, more) = (of.next(), of.next());
    assert!(more.is_none(), "several rows begin with {begins}: {rows:?}");
    row.unwrap_or_else(|| panic!("no row begins with {begins}: {rows:?}"))
}

const EVAL: &str = "--text story.txt --seq-len 64 --windows 2 --json";

#[test]
fn page_opens_with_what_was_measured_and_says_how_to_measure_the_rest() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives("report --plan low -o bare.html");
    let plan = sandbox.json_file("low/welore_plan.json");
    let totals = &plan["totals"];
    let big = answers(&sandbox, "bare.html", "How big?");
    for (what, name) in [("parameters", "parameters"), ("bytes", "bytes")] {
        let row = row(&big, what);
        assert_eq!(row["before"].as_f64(), totals[format!("{name}_before")].as_f64());
        assert_eq!(row["after"].as_f64(), totals[format!("{name}_after")].as_f64());
    }
    // Nothing was measured, and nothing is made up.
    let good = answers(&sandbox, "bare.html", "How good?");
    for what in ["perplexity", "KL divergence", "accuracy"] {
        let row = row(&good, what);
        assert!(row["missing"].as_str().unwrap().starts_with("welore-cli eval "), "{row}");
        assert!(row["after"].is_null() && row["lack"] == "not measured", "{row}");
    }
    let work = answers(&sandbox, "bare.html", "What was done?");
    assert!(row(&work, "method")["text"].as_str().unwrap().contains("welore"));
    assert_eq!(row(&work, "target")["text"], "ERR 0.5");
    // Whatever their ranks.
    let lrcs = totals["lrcs"].as_u64().unwrap();
    assert_eq!(row(&work, "stored as")["text"], format!("two factors ({lrcs})"));

    let measured = sandbox.json(&format!("eval low {EVAL} --against model"));
    sandbox.write("low.json", measured.to_string());
    let dense = sandbox.json(&format!("eval model {EVAL}"));
    sandbox.write("dense.json", dense.to_string());
    sandbox.gives(&format!("{SHORT} --eval-text story.txt --eval-windows 2 --eval-every 4"));
    sandbox.gives(
        "report --plan low --eval low.json --eval dense.json --run run -o page.html --title All",
    );
    let good = answers(&sandbox, "page.html", "How good?");
    let perplexity = row(&good, "perplexity on story.txt, 2 windows of 64 tokens");
    assert_eq!(perplexity["after"], measured["perplexity"]);
    assert_eq!(perplexity["before"], dense["perplexity"]);
    let kl = row(&good, "KL divergence");
    assert_eq!(kl["after"], measured["divergence"]["kl"]["value"]);
    assert!(row(&good, "perplexity on the evaluation text, tuned in run")["before"].is_number());
    assert!(row(&good, "accuracy")["missing"].is_string());
    let fast = answers(&sandbox, "page.html", "How fast?");
    let speed = row(&fast, "tokens per second, reading story.txt");
    assert_eq!(speed["after"], measured["tokens_per_second"]);
    assert!(fast.iter().all(|row| row["missing"].is_null()), "{fast:?}");
    let work = answers(&sandbox, "page.html", "What was done?");
    assert!(row(&work, "tuning in run")["text"].as_str().unwrap().starts_with("lrc, "));

    sandbox.refuses("report --eval low/welore_plan.json -o other.html", "not the output of `eval");
    sandbox.refuses("report --eval low.json -o low.json", "low.json");
}

#[test]
fn adapter_on_a_page_is_told_by_its_header() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("adapter")).unwrap();
    sandbox.refuses("report --adapter adapter -o page.html", "adapter_config.json");
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "q_proj"],
        "base_model_name_or_path": "/home/someone/secret/base",
    });
    sandbox.write("adapter/adapter_config.json", config.to_string());
    sandbox.refuses("report --adapter adapter -o page.html", "adapter_model.safetensors");
    let data = vec![0u8; 4 * 2 * 64];
    let layer = "base_model.model.model.layers.0.self_attn.q_proj";
    let tensors = [("A", vec![2, 64]), ("B", vec![64, 2])].map(|(name, shape)| {
        let view = TensorView::new(Dtype::F32, shape, &data).unwrap();
        (format!("{layer}.lora_{name}.weight"), view)
    });
    let file = safetensors::serialize(tensors, None).unwrap();
    sandbox.write("adapter/adapter_model.safetensors", &file);
    sandbox.gives("report --adapter adapter -o page.html");
    let big = answers(&sandbox, "page.html", "How big?");
    assert_eq!(row(&big, "parameters of the adapter")["after"], 256.0);
    assert_eq!(row(&big, "bytes of the adapter")["after"], 1024.0);
    assert!(row(&big, "size")["missing"].is_string(), "that is not the size of the model");
    let work = answers(&sandbox, "page.html", "What was done?");
    let said = &row(&work, "adapter adapter")["text"];
    assert_eq!(said, "LORA of rank 2, alpha 4, on q_proj, v_proj, for base");
    for value in [f32::NAN, f32::INFINITY] {
        let mut damaged = file.clone();
        let end = damaged.len() - 4;
        damaged[end..].copy_from_slice(&value.to_le_bytes());
        sandbox.write("adapter/adapter_model.safetensors", &damaged);
        let told = format!("holds {value} at flat index 127");
        let message = sandbox.refuses("report --adapter adapter -o other.html", &told);
        assert!(message.contains("adapter_model.safetensors"), "{message}");
    }
    sandbox.write("adapter/adapter_model.safetensors", &file[..40]);
    sandbox.refuses("report --adapter adapter -o other.html", "adapter_model.safetensors");
}
