//! Makes Rust code and weights of `model.onnx`.

use std::path::Path;
use std::{env, fs};

use burn_onnx::{LoadStrategy, ModelGen};

fn main() {
    println!("cargo::rerun-if-changed=model.onnx");
    ModelGen::new()
        .input("model.onnx")
        .out_dir("imported")
        .load_strategy(LoadStrategy::Embedded)
        .run_from_script();

    // The code that comes of it says `Linear`, which can be factored as it is but multiplies its
    // factors out in every pass. `LowRankLinear` is made in the same way and multiplies by one
    // after the other.
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let path = Path::new(&out).join("imported/model.rs");
    let mut code = fs::read_to_string(&path).expect("the importer wrote it");
    for name in ["Linear", "LinearConfig"] {
        let theirs = format!("use burn::nn::{name};");
        let ours = format!("use welore_burn::linear::LowRank{name} as {name};");
        assert!(code.contains(&theirs), "{} does not say `{theirs}`", path.display());
        code = code.replace(&theirs, &ours);
    }
    fs::write(&path, code).expect("the importer could write it");
}
