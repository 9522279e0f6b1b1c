//! Files and directories that appear whole or not at all, whatever their paths lead to.

mod left;

use std::fs;
#[cfg(unix)]
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::tempdir;
use welore_burn::files::{FileError, OutputDir, check_writable, replace_file, write_file};

/// Makes a directory that counts as a model; `name` is in it.
fn make_model(dir: &Path, name: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), name).unwrap();
    fs::write(dir.join("model.safetensors"), "").unwrap();
}

/// Which model is in a directory.
fn model_in(dir: &Path) -> String {
    fs::read_to_string(dir.join("config.json")).unwrap()
}

/// Replaces a model as `--force` does.
fn replace(target: &Path, name: &str) -> Result<(), FileError> {
    let output = OutputDir::create(target, true)?;
    make_model(output.path(), name);
    output.commit()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(unix)]
fn link(to: impl AsRef<Path>, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

#[cfg(unix)]
#[test]
fn links_to_files_are_followed() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir(at("far")).unwrap();
    link("far/middle", &at("start"));
    link("end", &at("far/middle"));
    // At first nothing is at the end.
    for content in ["new", "again"] {
        check_writable(at("start")).unwrap();
        write_file(at("start"), content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(at("far/end")).unwrap(), content);
    }
    assert!(at("start").is_symlink() && at("far/middle").is_symlink());
    assert_eq!(names_in(&at("far")), ["end", "middle"]);
    // Where somebody else may have put a link, it is replaced.
    replace_file(at("start"), b"here").unwrap();
    assert!(!at("start").is_symlink());
    assert_eq!(fs::read_to_string(at("far/end")).unwrap(), "again");

    link("nowhere/end", &at("broken"));
    let error = check_writable(at("broken")).unwrap_err();
    assert!(matches!(error, FileError::NoParent { .. }), "{error}");
    let error = write_file(at("broken"), b"x").unwrap_err();
    assert!(matches!(&error, FileError::Io { path, .. } if *path == at("broken")), "{error}");
    link("round", &at("round"));
    for check in [check_writable(at("round")), write_file(at("round"), b"x")] {
        assert!(matches!(check, Err(FileError::Unnamed { .. })), "{check:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_left_alone() {
    use std::os::unix::fs::MetadataExt;

    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    link("pipe", &at("link"));
    for (name, what) in [
        ("folder", "a directory"),
        ("folder/", "a directory"),
        ("folder/..", "a directory"),
        ("pipe", "a named pipe"),
        ("link", "a named pipe"),
        ("socket", "a socket"),
    ] {
        let before = at(name).metadata().unwrap().ino();
        for refused in [check_writable(at(name)), write_file(at(name), b"x")] {
            let message = refused.unwrap_err().to_string();
            assert!(message.ends_with(&format!("{name} is {what}")), "{message}");
        }
        assert_eq!(at(name).metadata().unwrap().ino(), before);
    }
    for name in ["new/", "folder/new/.", "a\0b"] {
        for refused in [check_writable(at(name)), write_file(at(name), b"x")] {
            assert!(matches!(refused, Err(FileError::Unnamed { .. })), "{name:?}: {refused:?}");
        }
    }
    assert_eq!(names_in(home.path()), ["folder", "link", "pipe", "socket"]);
}

#[cfg(unix)]
#[test]
fn devices_are_written_to() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    let null = Path::new("/dev/null");
    let home = tempdir().unwrap();
    link(null, &home.path().join("link"));
    if File::options().write(true).open(null).is_err() {
        eprintln!("skipped: there is no /dev/null here");
        return;
    }
    let before = null.metadata().unwrap();
    for path in [null, &home.path().join("link")] {
        check_writable(path).unwrap();
        write_file(path, b"nobody reads this").unwrap();
    }
    let after = null.symlink_metadata().unwrap();
    assert!(after.file_type().is_char_device());
    assert_eq!(after.ino(), before.ino());
    assert_eq!(names_in(home.path()), ["link"]);
}

/// As `/dev/stdout` and the shell's `>(command)`.
#[cfg(target_os = "linux")]
#[test]
fn what_this_process_has_open_is_written_to() {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    let home = tempdir().unwrap();
    let path = home.path().join("log");
    let mut log = File::create(&path).unwrap();
    log.write_all(b"before, ").unwrap();
    let own = |fd: i32| std::path::PathBuf::from(format!("/dev/fd/{fd}"));
    check_writable(own(log.as_raw_fd())).unwrap();
    write_file(own(log.as_raw_fd()), b"the plan").unwrap();
    log.write_all(b", after").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "before, the plan, after");

    let (mut reader, writer) = std::io::pipe().unwrap();
    write_file(own(writer.as_raw_fd()), b"the plan").unwrap();
    let error = check_writable(own(reader.as_raw_fd())).unwrap_err();
    assert!(error.to_string().contains("open for reading only"), "{error}");
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the plan");
}

#[test]
fn places_for_no_file_are_found_before_any_work() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::write(at("file"), "mine").unwrap();
    check_writable(at("new.json")).unwrap();
    check_writable(at("file")).unwrap();
    assert_eq!(names_in(home.path()), ["file"], "checking leaves nothing behind");
    let error = check_writable(at("nowhere/new.json")).unwrap_err();
    assert!(matches!(error, FileError::NoParent { .. }), "{error}");
    let error = check_writable(at("file/new.json")).unwrap_err();
    assert!(matches!(error, FileError::NotADirectory { .. }), "{error}");
    for nameless in ["", ".", "..", "/"] {
        assert!(check_writable(nameless).is_err(), "{nameless:?}");
    }
    // Nobody can create files there, not even the superuser.
    let proc = Path::new("/proc/new.json");
    if cfg!(target_os = "linux") {
        for refused in [check_writable(proc), write_file(proc, b"x")] {
            assert!(matches!(&refused, Err(FileError::Io { path, .. }) if path == proc));
            assert!(!refused.unwrap_err().to_string().contains(".welore-"));
        }
    }
}

#[test]
fn inputs_are_recognized() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    make_model(&at("out"), "old");
    fs::write(at("text"), "mine").unwrap();
    fs::write(at("out/plan.json"), "mine").unwrap();
    let outside = |input: &str| OutputDir::check_outside(at("out"), &[&at("text"), &at(input)]);
    outside("text").unwrap();
    outside("nowhere").unwrap();
    for input in ["out", "out/plan.json", "out/../out/config.json"] {
        let error = outside(input).unwrap_err();
        assert!(matches!(error, FileError::InputInside { .. }), "{error}");
    }
    OutputDir::check_outside(at("new"), &[&at("text")]).unwrap();

    #[cfg(unix)]
    {
        // The link would be gone, though not what it leads to.
        link("../text", &at("out/link"));
        outside("out/link").unwrap_err();
        // What leads into the directory is in it.
        link("out/plan.json", &at("plan"));
        outside("plan").unwrap_err();
    }
}

#[test]
fn replaced_output_is_never_without_a_name() {
    let home = tempdir().unwrap();
    let target = home.path().join("out");
    make_model(&target, "old");
    let (done, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if target.symlink_metadata().is_err() {
                    gone.store(true, Ordering::Relaxed);
                }
            }
        });
        let replaced = (0..200).try_for_each(|round: i32| replace(&target, &round.to_string()));
        done.store(true, Ordering::Relaxed);
        replaced.unwrap();
    });
    assert_eq!(model_in(&target), "199");
    assert_eq!(names_in(home.path()), ["out"]);
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert!(!gone.into_inner(), "there was a moment without an output");
    }
}

#[test]
fn output_that_changes_before_the_end_is_checked_again() {
    let home = tempdir().unwrap();
    let target = home.path().join("out");
    let output = OutputDir::create(&target, false).unwrap();
    make_model(output.path(), "new");
    make_model(&target, "of somebody else");
    let error = output.commit().unwrap_err();
    assert!(matches!(error, FileError::OutputExists { .. }), "{error}");
    assert_eq!(model_in(&target), "of somebody else");

    let output = OutputDir::create(&target, true).unwrap();
    make_model(output.path(), "new");
    fs::rename(target.join("config.json"), target.join("thesis.txt")).unwrap();
    let error = output.commit().unwrap_err();
    assert!(matches!(error, FileError::OutputForeign { .. }), "{error}");
    assert_eq!(names_in(&target), ["model.safetensors", "thesis.txt"]);
    assert_eq!(names_in(home.path()), ["out"]);
}

#[cfg(unix)]
#[test]
fn link_to_a_directory_stands_for_it() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("far/sub")).unwrap();
    make_model(&at("far/real"), "old");
    link("far/real", &at("out"));
    let error = OutputDir::create(at("out"), false).unwrap_err();
    assert!(matches!(&error, FileError::OutputExists { path } if *path == at("out")), "{error}");
    replace(&at("out"), "new").unwrap();
    assert!(at("out").is_symlink());
    assert_eq!(model_in(&at("far/real")), "new");

    // `..` leads to the parent of what a link leads to, as everywhere in the system.
    link("far/sub", &at("sub"));
    replace(&at("sub/../other"), "new").unwrap();
    assert_eq!(model_in(&at("far/other")), "new");
    // A directory that does not exist is not made only to be left again.
    replace(&at("missing/../direct/."), "new").unwrap();
    assert_eq!(names_in(home.path()), ["direct", "far", "out", "sub"]);
    assert_eq!(names_in(&at("far")), ["other", "real", "sub"]);

    // Names need not be text.
    if cfg!(target_os = "linux") {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"caf\xe9");
        let strange = home.path().join(name);
        replace(&strange, "new").unwrap();
        replace(&strange, "newer").unwrap();
        assert_eq!(model_in(&strange), "newer");
    }
    for nameless in ["", "a\0b", "/"] {
        assert!(OutputDir::create(nameless, true).is_err(), "{nameless:?}");
    }
}

/// Unmounts in the end.
#[cfg(target_os = "linux")]
struct Mount(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn mount_points_are_refused_before_any_work() {
    let home = tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    // On the same device, with a name that the kernel escapes.
    for model in ["real", "a model", "outer", "outer/inner"] {
        make_model(&at(model), model);
    }
    fs::write(at("plan.json"), "old").unwrap();
    let mut mounts = Vec::new();
    for (from, to) in
        [("real", "a model"), ("real", "outer/inner"), ("real/config.json", "plan.json")]
    {
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.arg("--bind").args([at(from), at(to)]).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            eprintln!("skipped: nothing can be mounted here");
            return;
        }
        mounts.push(Mount(at(to)));
    }
    for (target, mount) in [("a model", "a model"), ("outer", "outer/inner")] {
        for refused in
            [OutputDir::check_free(at(target), true), OutputDir::create(at(target), true).map(drop)]
        {
            let error = refused.unwrap_err();
            let names = |path: &Path| path.ends_with(mount);
            assert!(matches!(&error, FileError::MountPoint { path } if names(path)), "{error}");
        }
    }
    for refused in [check_writable(at("plan.json")), write_file(at("plan.json"), b"new")] {
        assert!(matches!(refused, Err(FileError::MountPoint { .. })), "{refused:?}");
    }
    assert_eq!([model_in(&at("a model")), model_in(&at("outer/inner"))], ["real", "real"]);
    drop(mounts);
    replace(&at("a model"), "new").unwrap();
}
