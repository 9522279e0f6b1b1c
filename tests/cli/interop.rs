//! The driver of `tests/interop`, and that README names what those scripts check.

use std::fs;
use std::path::Path;
use std::process::Command;

#[cfg(unix)]
use crate::skipped::skip;
use crate::support::{Outcome, Sandbox};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The driver beside these scripts, which says whether they run, are skipped or fail.
#[cfg(unix)]
fn driven(scripts: &[(&str, &str)], named: &[&str]) -> (Outcome, String) {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("interop/common")).unwrap();
    for file in ["run", "common/checks.py"] {
        let source = Path::new(ROOT).join("tests/interop").join(file);
        fs::copy(source, sandbox.path("interop").join(file)).unwrap();
    }
    for (name, script) in scripts {
        sandbox.write(&format!("interop/{name}"), script);
    }
    let mut command = Command::new("bash");
    command.arg(sandbox.path("interop/run")).arg(env!("CARGO_BIN_EXE_welore-cli")).args(named);
    command.env("WELORE_SKIPPED", sandbox.path("skipped"));
    let outcome = Outcome::of(&mut command);
    let skipped = fs::read_to_string(sandbox.path("skipped")).unwrap_or_default();
    (outcome, skipped)
}

#[cfg(unix)]
#[test]
fn driver_tells_what_passes_what_is_skipped_and_what_fails() {
    let good = ("good.sh", "test -x \"$1\" && echo 'good: runs'\n");
    let part = ("part.sh", "echo 'part: logits'; echo 'SKIPPED: part: no llama.cpp'\n");
    let none = ("none.sh", "echo 'SKIPPED: none: no torch'\n");
    let (outcome, skipped) = driven(&[good, part, none], &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for line in ["good.sh\n    good: runs\n  passed (", "none.sh\n    SKIPPED: none: no torch\n"] {
        assert!(outcome.stdout.contains(line), "{line}: {}", outcome.stdout);
    }
    assert!(outcome.stdout.contains("\n2 passed, 1 skipped, 0 failed ("), "{}", outcome.stdout);
    // In the order of the names.
    assert_eq!(skipped, "SKIPPED: none: no torch\nSKIPPED: part: no llama.cpp\n");

    let bad = ("bad.sh", "echo 'bad: differs' >&2; exit 1\n");
    let mute = ("mute.sh", "true\n");
    let (outcome, _) = driven(&[good, bad, mute], &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("    bad: differs\n  failed with 1 ("), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("1 passed, 0 skipped, 2 failed: bad.sh mute.sh ("));
    // One that is named runs alone; one that does not exist is a mistake.
    assert_eq!(driven(&[good, bad], &["good.sh"]).0.code, Some(0));
    assert_eq!(driven(&[good], &["other.sh"]).0.code, Some(2));
}

/// A script in Python that shares what those of `tests/interop` share.
#[cfg(unix)]
fn python(needs: &str, main: &str) -> String {
    format!(
        "import sys\n\
         from pathlib import Path\n\
         sys.path.insert(0, str(Path(__file__).resolve().parent / 'common'))\n\
         import checks\n\
         checks.need('{needs}')\n\
         checks.run(lambda welore: {main}, 'usage')\n"
    )
}

#[cfg(unix)]
#[test]
fn scripts_in_python_say_what_they_lack_and_fail_with_any_check_or_without_one() {
    let python_program = std::env::var_os("WELORE_PYTHON").unwrap_or("python3".into());
    if Command::new(&python_program).arg("--version").output().is_err() {
        return skip("there is no Python");
    }
    let good = python("json", "checks.near('sum', 1e-5, without=1)");
    let lacks = python("no_such_package", "checks.check(False, 'not reached')");
    let scripts = [("good.py", good.as_str()), ("lacks.py", lacks.as_str())];
    let (outcome, skipped) = driven(&scripts, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("    ok     sum: differs by 1.0e-05"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("\n1 passed, 1 skipped, 0 failed ("), "{}", outcome.stdout);
    assert_eq!(skipped, "SKIPPED: lacks: Python has no package `no_such_package`\n");

    for (main, told) in [
        ("checks.check(False, 'sum')", "    FAILED sum\n"),
        // A check after it does not make up for one that fails.
        ("[checks.check(holds, 'sum') for holds in (False, True)]", "    1 of 2 checks hold\n"),
        ("checks.near('sum', 2e-4)", "    FAILED sum: differs by 2.0e-04\n"),
        ("checks.near('sum', float('nan'))", "    FAILED sum: differs by nan\n"),
        // This would pass whatever the program does.
        ("checks.near('sum', 0.0, without=5e-4)", "which is too little for a check\n"),
        ("checks.same('sum', 1, 2)", "    FAILED sum: \n"),
        ("welore.run('no-such-command')", "    FAILED no-such-command: "),
        ("None", "    nothing was checked\n"),
        ("1 / 0", "ZeroDivisionError"),
    ] {
        let script = python("json", main);
        let (outcome, _) = driven(&[("bad.py", script.as_str())], &[]);
        assert_eq!(outcome.code, Some(1), "{main}: {outcome:?}");
        assert!(outcome.stdout.contains(told), "{main}: {}", outcome.stdout);
    }
}

#[test]
fn readme_names_every_check_and_only_checks_that_exist() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let start = readme.find("\n## Where it runs\n").expect("README says where results run");
    let section = &readme[start + 1..];
    let section = section.find("\n## ").map_or(section, |end| &section[..end]);
    let scripts = fs::read_dir(Path::new(ROOT).join("tests/interop")).unwrap();
    for script in scripts {
        let name = script.unwrap().file_name().into_string().unwrap();
        let is_check = name.ends_with(".py") || name.ends_with(".sh");
        assert!(!is_check || section.contains(&format!("`{name}`")), "README lacks {name}");
    }
    let is_script = |word: &&str| {
        (word.ends_with(".py") || word.ends_with(".sh")) && !word.contains(char::is_whitespace)
    };
    for word in section.split('`').filter(is_script) {
        let path = Path::new(ROOT).join("tests/interop").join(word);
        assert!(path.is_file(), "README names {word}, which is not in tests/interop");
    }
}
