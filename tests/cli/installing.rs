//! Manual pages, and what is installed below a prefix.

use std::fs;
use std::process::Command;

use crate::support::Sandbox;

const BINARY: &str = env!("CARGO_BIN_EXE_welore-cli");
const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging");

fn pages(sandbox: &Sandbox, dir: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(sandbox.path(dir)).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    let mut pages: Vec<(String, String)> = entries.map(read).collect();
    pages.sort();
    pages
}

#[test]
fn manual_has_a_page_for_every_command_and_is_the_same_every_time() {
    let sandbox = Sandbox::new();
    sandbox.gives("manual -o man");
    let written = pages(&sandbox, "man");
    let reference = sandbox.gives("reference").stdout;
    let commands: Vec<&str> =
        reference.split("\n## ").skip(2).filter_map(|section| section.lines().next()).collect();
    let mut expected: Vec<String> =
        commands.iter().map(|command| format!("welore-cli-{command}.1")).collect();
    expected.push("welore-cli.1".into());
    expected.sort();
    assert_eq!(written.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected);
    let page = |name: &str| &written.iter().find(|(own, _)| own == name).unwrap().1;
    let train = page("welore-cli-train.1");
    for part in ["\n.SH EXAMPLES\n", "trainable", "quiet", "lrc", "\\-\\-resume run"] {
        assert!(train.contains(part), "{part}: {train}");
    }
    let program = page("welore-cli.1");
    for part in ["welore\\-cli\\-compress(1)", "\n.SH \"EXIT STATUS\"\n"] {
        assert!(program.contains(part), "{part}: {program}");
    }
    for (name, text) in &written {
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        // Name, section, no date, source, manual.
        assert!(title.ends_with(&format!("\" \" \"welore-cli {version}\" welore-cli")), "{title}");
        assert!(!text.contains("reference(1)") && !text.contains("help(1)"), "{name}");
    }
    sandbox.gives("manual -o again");
    assert_eq!(pages(&sandbox, "again"), written);
    sandbox.refuses("manual -o man", "man");
    sandbox.refuses("manual -o model", "model");
}

#[cfg(unix)]
#[test]
fn everything_is_laid_out_below_a_prefix() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    // As small as a program can be: it is copied.
    sandbox.write("built", format!("#!/bin/sh\nexec '{BINARY}' \"$@\"\n"));
    fs::set_permissions(sandbox.path("built"), fs::Permissions::from_mode(0o755)).unwrap();
    let install = |binary: &str| {
        let mut command = Command::new(format!("{PACKAGING}/install.sh"));
        command.arg(sandbox.path("usr")).arg(binary).current_dir(sandbox.path("")).output().unwrap()
    };
    let made = install("built");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mode = |name: &str| {
        let found = fs::metadata(sandbox.path("usr").join(name));
        found.unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode() & 0o777
    };
    assert_eq!(mode("bin/welore-cli"), 0o755);
    for name in [
        "share/man/man1/welore-cli.1",
        "share/man/man1/welore-cli-compress.1",
        "share/bash-completion/completions/welore-cli",
        "share/zsh/site-functions/_welore-cli",
        "share/fish/vendor_completions.d/welore-cli.fish",
    ] {
        assert_eq!(mode(name), 0o644, "{name}");
    }
    let bash = String::from_utf8(sandbox.read("usr/share/bash-completion/completions/welore-cli"));
    assert_eq!(bash.unwrap(), sandbox.gives("completions bash").stdout);
    let version = Command::new(sandbox.path("usr/bin/welore-cli")).arg("--version").output();
    assert!(version.unwrap().status.success());
    // Once more over itself; what is no program leaves everything as it was.
    assert!(install("built").status.success());
    let before = sandbox.contents();
    let refused = install("story.txt");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("story.txt"));
    assert_eq!(sandbox.contents(), before);
}
