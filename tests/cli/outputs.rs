//! What commands write, what they replace, and what they never touch.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Outcome, Sandbox, Tensors};

const COMPRESS: &str = "compress model --err 0.5";

/// A sandbox with a compressed model in `low`, to which its owner added a note.
fn with_low() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.write("low/note.txt", "mine");
    sandbox
}

#[test]
fn existing_model_is_replaced_only_by_force() {
    let sandbox = with_low();
    sandbox.refuses("compress model --err 0.3 -o low", "low already exists");
    sandbox.refuses("compress model --err 0.3 -o low/", "low already exists");
    sandbox.refuses("export low --dense -o model", "model already exists");

    sandbox.gives("compress model --err 0.3 -o low --force");
    assert_eq!(sandbox.json("inspect low --json")["plan"]["target"]["err"], 0.3);
    sandbox.duplicate("model", "dense");
    sandbox.gives("export low --dense -o dense --force");
    assert!(sandbox.read("dense/model.safetensors") != sandbox.read("model/model.safetensors"));
}

#[test]
fn what_was_there_survives_a_failure_by_force() {
    let sandbox = with_low();
    sandbox.refuses("compress model --err 0.999 -o low --force", "ERR 0.999");
    sandbox.refuses("compress low --err 0.5 -o model --force", "already factored");
    sandbox.refuses("compress model --plan nowhere.json -o low --force", "nowhere.json");
}

#[test]
fn only_model_directories_are_ever_replaced() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("folder")).unwrap();
    sandbox.write("folder/note.txt", "mine");
    for output in ["folder", "."] {
        let foreign = format!("{output} is not a model directory");
        for force in ["", "--force"] {
            sandbox.refuses(&format!("{COMPRESS} -o {output} {force}"), &foreign);
        }
    }
}

#[test]
fn empty_directory_is_filled() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.gives(&format!("{COMPRESS} -o empty"));
    sandbox.gives("inspect empty");
}

#[test]
fn missing_folders_above_an_output_are_made_but_not_left_behind() {
    let sandbox = Sandbox::new();
    sandbox.refuses("compress model --err 0.999 -o new/folder/low", "ERR 0.999");
    sandbox.refuses("export model --dense -o new/folder/dense", "dense already");
    sandbox.gives("compress model --err 0.5 -o new/folder/low");
    sandbox.gives("inspect new/folder/low");
}

#[test]
fn model_is_never_its_own_output() {
    let sandbox = with_low();
    for output in ["model", "model/.", "./model/", "low/../model"] {
        for force in ["", "--force"] {
            sandbox.refuses(&format!("{COMPRESS} -o {output} {force}"), "the model itself");
        }
    }
    sandbox.refuses("export low --dense -o low --force", "the model itself");
}

#[test]
fn model_is_never_lost_with_a_directory_around_it() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "outer");
    sandbox.duplicate("model", "outer/inner");
    sandbox.refuses("compress outer/inner --err 0.5 -o outer --force", "outer");
}

#[cfg(unix)]
#[test]
fn link_to_the_model_is_the_model() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("model", sandbox.path("link")).unwrap();
    sandbox.refuses(&format!("{COMPRESS} -o link --force"), "the model itself");
}

#[test]
fn outputs_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "mine");
    for output in ["file", "file/low", "file/new/low"] {
        for force in ["", "--force"] {
            sandbox.refuses(&format!("{COMPRESS} -o {output} {force}"), "file is not a directory");
        }
    }
    sandbox.refuses("export model --dense -o file", "file is not a directory");
    sandbox.refuses("demo -o file", "file");
    for command in ["analyze model", "plan model --err 0.5"] {
        sandbox.refuses(&format!("{command} -o nowhere/out.json"), "nowhere/out.json");
        sandbox.refuses(&format!("{command} -o model"), "model");
    }
}

#[cfg(unix)]
#[test]
fn link_that_leads_nowhere_is_no_directory() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("nowhere", sandbox.path("link")).unwrap();
    for output in ["link", "link/low"] {
        sandbox.refuses(&format!("{COMPRESS} -o {output}"), "link is not a directory");
    }
    assert!(sandbox.path("nowhere").symlink_metadata().is_err());
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_stay_what_they_are() {
    use std::os::unix::fs::FileTypeExt;

    let sandbox = Sandbox::new();
    let kind = |path: &std::path::Path| path.symlink_metadata().unwrap().file_type();
    // Root could lose the machine's own.
    let mut mknod = std::process::Command::new("mknod");
    let made = mknod.arg(sandbox.path("null")).args(["c", "1", "3"]).output();
    let null = match made.is_ok_and(|made| made.status.success()) {
        true => "null",
        false => "/dev/null",
    };
    if fs::File::options().write(true).open(sandbox.path(null)).is_ok() {
        for line in ["plan model --err 0.5", "analyze model"] {
            sandbox.gives(&format!("{line} -o {null}"));
            assert!(kind(&sandbox.path(null)).is_char_device(), "{line}");
        }
        let message = sandbox.refuses(&format!("{COMPRESS} -o {null}"), null);
        assert!(message.contains("is not a directory"), "{message}");
    }
    let made = std::process::Command::new("mkfifo").arg(sandbox.path("pipe")).status();
    assert!(made.unwrap().success());
    for line in [
        "plan model --err 0.5 -o pipe",
        "analyze model -o pipe",
        "plan model --err 0.5 -o new.json --report pipe",
    ] {
        let message = sandbox.run(line).complaint(2);
        assert!(message.contains("pipe is a named pipe"), "{message}");
    }
    let message = sandbox.run(&format!("{COMPRESS} -o pipe --force")).complaint(2);
    assert!(message.contains("pipe is not a directory"), "{message}");
    assert!(kind(&sandbox.path("pipe")).is_fifo());
}

/// The plan and what the command says about it share the output, in this order.
#[cfg(target_os = "linux")]
#[test]
fn artifact_can_go_to_standard_output() {
    let sandbox = Sandbox::new();
    let line = "plan model --err 0.5";
    sandbox.gives(&format!("{line} -o plan.json"));
    let plan = String::from_utf8(sandbox.read("plan.json")).unwrap();
    let said = sandbox.gives(&format!("{line} -o /dev/stdout")).stdout;
    assert!(said.contains(&plan) && said.len() > plan.len(), "{said}");
    let mut command = sandbox.command(&format!("{line} -o /dev/stdout"));
    command.stdout(fs::File::create(sandbox.path("all.txt")).unwrap());
    assert_eq!(Outcome::of(&mut command).code, Some(0));
    assert_eq!(String::from_utf8(sandbox.read("all.txt")).unwrap(), said);
}

#[cfg(unix)]
#[test]
fn links_to_outputs_are_followed() {
    use std::os::unix::fs::symlink;

    let sandbox = with_low();
    fs::create_dir(sandbox.path("far")).unwrap();
    symlink("far/plan.json", sandbox.path("plan")).unwrap();
    symlink("far/seen", sandbox.path("seen")).unwrap();
    symlink("low", sandbox.path("link")).unwrap();
    sandbox.gives("plan model --err 0.5 -o plan");
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 2 \
         --too-little shrink -o seen",
    );
    sandbox.gives("compress model --plan plan -o link --force");
    assert!(!sandbox.path("low/note.txt").exists(), "the directory was replaced");
    for link in ["plan", "seen", "link"] {
        assert!(sandbox.path(link).is_symlink(), "{link}");
    }
    let far = fs::read_dir(sandbox.path("far")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(far.collect::<BTreeSet<_>>(), BTreeSet::from(["plan.json".into(), "seen".into()]));
    sandbox.refuses(&format!("{COMPRESS} -o link"), "link already exists");
}

#[test]
fn working_directory_is_not_replaced() {
    let sandbox = with_low();
    for (output, force) in [(".", "--force"), ("../low", "--force"), ("../low/.", "")] {
        let line = format!("compress ../model --err 0.5 -o {output} {force}");
        let outcome = Outcome::of(sandbox.command(&line).current_dir(sandbox.path("low")));
        let message = outcome.complaint(2);
        assert!(message.contains("working directory"), "{message}");
    }
    assert!(sandbox.path("low/note.txt").exists());
}

#[test]
fn what_killed_runs_left_is_swept() {
    let sandbox = Sandbox::new();
    for litter in [".plan.json.welore-a1b2c3", ".seen.welore-partial/model/model.safetensors"] {
        fs::create_dir_all(sandbox.path(litter).parent().unwrap()).unwrap();
        sandbox.write(litter, "half");
    }
    let head = r#"{"format":"welore-partial","version":1,"job":"file"}"#;
    sandbox.write(".seen.welore-partial/progress.jsonl", format!("{head}\n"));
    sandbox.write(".other.json.welore-a1b2c3", "of another target");
    sandbox.gives("plan model --err 0.5 -o plan.json");
    sandbox.gives(
        "calibrate model --text story.txt --calibration-seq-len 64 --calibration-windows 2 \
         --too-little shrink -o seen",
    );
    let names = fs::read_dir(sandbox.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert_eq!(hidden, [".other.json.welore-a1b2c3"]);
}

#[test]
fn shards_are_of_the_size_asked_for_and_hold_the_same_tensors() {
    let sandbox = with_low();
    sandbox.gives(&format!("{COMPRESS} -o shards --shard-size 50kB"));
    let index = sandbox.json_file("shards/model.safetensors.index.json");
    let files: BTreeSet<&str> =
        index["weight_map"].as_object().unwrap().values().map(|f| f.as_str().unwrap()).collect();
    assert!(files.len() > 3, "{files:?}");
    let mut found = Tensors::new();
    for file in files {
        let tensors = sandbox.tensors(&format!("shards/{file}"));
        let size: usize = tensors.values().map(|tensor| tensor.data.len()).sum();
        assert!(size <= 50_000 || tensors.len() == 1, "{file} holds {size} bytes");
        found.extend(tensors);
    }
    assert!(found == sandbox.tensors("low/model.safetensors"));
    sandbox.gives("export shards --dense -o dense --shard-size 50kB");
    sandbox.gives("inspect dense");
    assert!(sandbox.path("dense/model.safetensors.index.json").exists());
}

#[test]
fn memory_that_is_not_enough_for_a_matrix_is_refused_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.gives("plan model --err 0.5 -o plan.json --no-cache");
    for line in [
        "analyze model",
        "plan model --err 0.5 -o new.json",
        "compress model --err 0.5 -o out",
        "compress model --plan plan.json -o out",
    ] {
        let message = sandbox.refuses(&format!("{line} --max-memory 10kB"), "_proj");
        assert!(message.contains("10.0 kB"), "{message}");
    }
    assert!(sandbox.cached().is_empty());
}

#[test]
fn results_do_not_depend_on_the_memory_there_is() {
    let sandbox = with_low();
    sandbox.gives(&format!("{COMPRESS} -o tight --max-memory 600kB --no-cache"));
    assert!(sandbox.read("tight/model.safetensors") == sandbox.read("low/model.safetensors"));
    sandbox.gives(&format!("{COMPRESS} -o single --jobs 1 --no-cache"));
    sandbox.gives("inspect single");
}

#[test]
fn sizes_and_jobs_that_cannot_be_explain_themselves() {
    let sandbox = Sandbox::new();
    for (option, named) in [
        ("--jobs 0", "--jobs"),
        ("--max-memory lots", "--max-memory"),
        ("--max-memory=-3GB", "--max-memory"),
        ("--shard-size 0", "--shard-size"),
        ("--shard-size 3XB", "--shard-size"),
    ] {
        sandbox.misused(&format!("{COMPRESS} -o out {option}"), named);
    }
}

#[test]
fn known_spectra_are_not_measured_again_and_change_nothing() {
    let sandbox = Sandbox::new();
    let line = "analyze model -o spectra.json --json";
    let first = sandbox.gives(line);
    let spectra = sandbox.read("spectra.json");
    assert!(!first.stderr.contains("measured before"), "{}", first.stderr);
    let known = "28 of 28 matrices were measured before";
    let again = sandbox.gives(line);
    assert!(again.stderr.contains(known), "{}", again.stderr);
    let fresh = sandbox.gives(&format!("{line} --no-cache"));
    assert!(!fresh.stderr.contains("measured before"), "{}", fresh.stderr);
    assert_eq!([&again.stdout, &fresh.stdout], [&first.stdout; 2]);
    assert!(sandbox.read("spectra.json") == spectra);
    for line in ["plan model --err 0.3", "compress model --err 0.4 -o out"] {
        assert!(sandbox.gives(line).stderr.contains(known), "{line}");
    }
}

#[test]
fn damaged_and_foreign_spectra_in_the_cache_are_measured_again() {
    let sandbox = Sandbox::new();
    let first = sandbox.gives("analyze model --json").stdout;
    let files = sandbox.cached();
    assert_eq!(files.len(), 28);
    fs::write(&files[0], "").unwrap();
    fs::write(&files[1], "x".repeat(1_000_000)).unwrap();
    fs::copy(&files[3], &files[2]).unwrap();
    let again = sandbox.gives("analyze model --json");
    assert_eq!(again.stdout, first);
    assert!(again.stderr.contains("25 of 28 matrices"), "{}", again.stderr);
    let healed = sandbox.gives("analyze model --json");
    assert!(healed.stderr.contains("28 of 28 matrices"), "{}", healed.stderr);
}

#[test]
fn cache_that_cannot_be_written_is_no_failure() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "mine");
    let mut command = sandbox.command("analyze model --json");
    let outcome = Outcome::of(command.env("WELORE_CACHE", sandbox.path("file")));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, sandbox.gives("analyze model --json").stdout);
}

#[test]
fn artifact_is_replaced_whole() {
    let sandbox = Sandbox::new();
    sandbox.write("plan.json", format!("{{\"format\": \"welore-plan\"{}", " ".repeat(1_000_000)));
    sandbox.gives("plan model --err 0.5 -o plan.json");
    sandbox.gives("compress model --plan plan.json -o low");
}

#[test]
fn demo_replaces_nothing_that_it_was_not_told_to() {
    let sandbox = Sandbox::new();
    sandbox.duplicate("model", "kept/dense");
    sandbox.write("kept/dense/note.txt", "mine");
    sandbox.refuses("demo -o kept", "was not made by a demo");
    sandbox.refuses("demo -o kept --force", "was not made by a demo");
}

#[test]
fn demo_keeps_a_directory_in_which_it_did_not_make_everything() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("kept/lrc/checkpoints/step-60")).unwrap();
    for file in ["welore-demo", "spectra.json", "lrc/run.json", "lrc/checkpoints/last.json"] {
        sandbox.write(&format!("kept/{file}"), "of an earlier demo");
    }
    for foreign in ["thesis.txt", "lrc/notes", "lrc/checkpoints/step-60/weights.bin"] {
        let foreign = format!("kept/{foreign}");
        sandbox.write(&foreign, "mine");
        let message = format!("{foreign} was not made by a demo");
        sandbox.refuses("demo -o kept --force", &message);
        sandbox.remove(&foreign);
    }
    fs::create_dir(sandbox.path("kept/photos")).unwrap();
    sandbox.refuses("demo -o kept --force", "kept/photos was not made by a demo");
}

#[cfg(unix)]
#[test]
fn results_have_the_permissions_of_ordinary_files() {
    use std::os::unix::fs::PermissionsExt;

    let sandbox = with_low();
    sandbox.gives("analyze model -o spectra.json");
    let mode = |name: &str| sandbox.path(name).metadata().unwrap().permissions().mode() & 0o777;
    for file in ["low/model.safetensors", "low/config.json", "low/welore_plan.json", "spectra.json"]
    {
        assert_eq!(mode(file), mode("low/note.txt"), "{file}");
    }
    fs::create_dir(sandbox.path("ordinary")).unwrap();
    assert_eq!(mode("low"), mode("ordinary"));
}

/// A kill right after an output got its name leaves a hidden directory without files.
#[test]
fn commands_that_find_their_output_finished_remove_what_a_kill_left() {
    let sandbox = Sandbox::new();
    let export = "export low --dense -o dense";
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.gives(export);
    for (line, output) in [("compress model --err 0.5 -o low", "low"), (export, "dense")] {
        let left = sandbox.path(&format!(".{output}.welore-partial"));
        fs::create_dir_all(left.join("model")).unwrap();
        fs::write(left.join("lock"), "").unwrap();
        let message = sandbox.run(line).complaint(2);
        assert!(message.contains(&format!("{output} already exists")), "{message}");
        assert!(!left.exists(), "{line}");
    }
}

#[test]
fn a_file_of_settings_is_an_input() {
    let sandbox = Sandbox::new();
    let settings = "[analyze]\njson = true\n[compress]\nerr = 0.4\n";
    sandbox.write("settings.toml", settings);
    for line in [
        "analyze model --config settings.toml -o settings.toml",
        "analyze model --config settings.toml -o ./model/../settings.toml",
        "compress model --config settings.toml -o out --report settings.toml",
    ] {
        sandbox.refuses(line, "settings.toml");
    }
    let mut command = sandbox.command("analyze model -o settings.toml");
    let outcome = Outcome::of(command.env("WELORE_CONFIG", "settings.toml"));
    assert!(outcome.complaint(2).contains("is an input"), "{outcome:?}");
    let sandbox = with_low();
    sandbox.write("low/settings.toml", settings);
    sandbox.refuses("compress model --config low/settings.toml -o low --force", "settings.toml");
}

#[test]
fn a_page_replaces_only_pages() {
    let sandbox = with_low();
    sandbox.write("notes.txt", "mine");
    for page in ["low/config.json", "low/model.safetensors", "low/generation_config.json"] {
        let line = format!("compress model --err 0.5 -o low --force --report {page}");
        sandbox.refuses(&line, page);
    }
    for page in ["low/config.json", "low/README.md", "notes.txt"] {
        sandbox.refuses(&format!("analyze model -o spectra.json --report {page}"), page);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("spectra.json", sandbox.path("link")).unwrap();
        sandbox.refuses("analyze model -o spectra.json --report link", "link");
    }
    for _ in 0..2 {
        sandbox.gives("analyze model -o spectra.json --report page.html");
    }
    sandbox.gives("compress model --err 0.5 -o low --force --report low/page.html");
    sandbox.gives("inspect low");
}

/// Needs a right that only some users have.
#[cfg(target_os = "linux")]
#[test]
fn another_mount_of_an_input_is_that_input() {
    let sandbox = with_low();
    let mount = |from: &str, to: &str| {
        fs::create_dir(sandbox.path(to)).unwrap();
        let (from, to) = (sandbox.path(from), sandbox.path(to));
        let mut command = std::process::Command::new("mount");
        command.arg("--bind").args([from, to]).output().is_ok_and(|made| made.status.success())
    };
    if !mount("low", "other") || !mount(".", "all") {
        crate::skipped::skip(
            "outputs that are inputs by another mount: nothing can be mounted here",
        );
        return;
    }
    let lines = [
        "compress other --err 0.4 -o low --force",
        "analyze other -o low/config.json",
        "analyze model -o all/model/config.json",
        "calibrate model --text story.txt -o all/story.txt",
        "compress all/low/inner --err 0.4 -o low --force",
    ];
    sandbox.duplicate("model", "low/inner");
    let given = (sandbox.read("low/config.json"), sandbox.read("story.txt"));
    let outcomes: Vec<Outcome> = lines.iter().map(|line| sandbox.run(line)).collect();
    for name in ["all", "other"] {
        let done = std::process::Command::new("umount").arg(sandbox.path(name)).status().unwrap();
        assert!(done.success());
    }
    for (line, outcome) in lines.iter().zip(&outcomes) {
        assert_eq!(outcome.code, Some(2), "{line}: {outcome:?}");
    }
    assert!(given == (sandbox.read("low/config.json"), sandbox.read("story.txt")));
    assert!(sandbox.path("low/inner/config.json").exists());
}
