//! Compression that is killed, or runs out of disk, and then goes on or makes way for other work.

use std::fs;

use crate::stopping::{PARTIAL, assert_whole, deepen, factored, files_of, kill_line_at, kill_when};
use crate::support::{Outcome, Sandbox};

/// A sandbox with a model of some depth, and its calibration in `seen`.
fn calibrated() -> Sandbox {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 8);
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 6 \
         --gradient-windows 2 -o seen",
    );
    sandbox
}

/// Writes the weights matrix by matrix into one file, as slowly as it can.
const PLAIN: &str = "compress model --err 0.5 --jobs 1 -o out";

/// With dense matrices, which are changed.
const SEQUENTIAL: &str = "compress model --calibration seen --method sequential --keep-params 0.7 \
                          --keep-dense o_proj --shard-size 100kB -o out";

const REFINED: &str = "compress model --calibration seen --method sequential --refine 1 \
                       --keep-params 0.7 --shard-size 100kB -o out";

/// Whether `out` has all of its weights, but is not in its place yet.
fn writes_last_files(sandbox: &Sandbox) -> bool {
    let entries = fs::read_dir(sandbox.path(PARTIAL).join("model"));
    let mut names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| !name.to_string_lossy().starts_with("model"))
}

#[test]
fn killed_compression_block_by_block_goes_on_to_the_same_bytes() {
    let sandbox = calibrated();
    // A file that is copied long enough for a kill to hit.
    sandbox.write("model/tokenizer.model", vec![7; 16 << 20]);
    for line in [SEQUENTIAL, REFINED] {
        sandbox.gives(&line.replace("-o out", "-o whole"));
        for matrices in [3, 20] {
            kill_line_at(&sandbox, line, matrices);
        }
        kill_when(&sandbox, line, "the last file", || writes_last_files(&sandbox));
        let outcome = sandbox.gives(line);
        assert!(outcome.stderr.contains("were compressed before"), "{}", outcome.stderr);
        assert_whole(&sandbox);
        for dir in ["out", "whole"] {
            fs::remove_dir_all(sandbox.path(dir)).unwrap();
        }
    }
}

#[test]
fn compression_in_another_way_takes_nothing_from_one_that_was_killed() {
    let sandbox = calibrated();
    for (first, line) in [(PLAIN, SEQUENTIAL), (SEQUENTIAL, PLAIN), (REFINED, SEQUENTIAL)] {
        kill_line_at(&sandbox, first, 3);
        let outcome = sandbox.gives(line);
        assert!(!outcome.stderr.contains("compressed before"), "{}", outcome.stderr);
        sandbox.gives(&line.replace("-o out", "-o whole"));
        let [out, whole] = ["out", "whole"].map(|dir| files_of(&sandbox, dir));
        assert!(out == whole, "`{line}` after `{first}`: {:?}", out.keys());
        assert!(!sandbox.path(PARTIAL).exists());
        for dir in ["out", "whole"] {
            fs::remove_dir_all(sandbox.path(dir)).unwrap();
        }
    }
}

#[test]
fn disk_that_fills_up_half_way_costs_no_finished_matrix() {
    let sandbox = Sandbox::new();
    deepen(&sandbox, 200);
    let line = "compress model --err 0.5 --shard-size 200kB -o out";
    sandbox.gives(&line.replace("-o out", "-o whole"));
    let mut finished = 0;
    // No shard is that large. The journal outgrows the first limit half-way, and the plan, which
    // comes last, the second one.
    for blocks in [450, 1000] {
        let mut limited = sandbox.command_after(&format!("ulimit -f {blocks}"), line);
        let outcome = Outcome::of(&mut limited);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("error: out: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("not enough space"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("so far are kept in "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("/{PARTIAL}; the same")), "{}", outcome.stderr);
        assert!(!sandbox.path("out").exists());
        let now = factored(&sandbox);
        assert!(now > finished, "{now} matrices were kept, {finished} before");
        finished = now;
    }
    let outcome = sandbox.gives(line);
    assert!(outcome.stderr.contains("matrices were compressed before"), "{}", outcome.stderr);
    assert_whole(&sandbox);
}
