//! The report page in a real, headless browser. Without Chromium these tests are skipped;
//! `WELORE_CHROMIUM` can name its executable.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::skipped::skip;
use crate::support::Sandbox;
use crate::training::SHORT;

const NO_BROWSER: &str = "there is no Chromium";

/// The browser, if there is one.
fn chromium() -> Option<String> {
    let named = std::env::var("WELORE_CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome", "chrome"].map(String::from);
    named.into_iter().chain(known).find(|name| {
        let mut command = Command::new(name);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// The DOM of a page after it has drawn itself, and what it wrote to the console.
fn drawn(browser: &str, page: &Path) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr", "--window-size=1280,900"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect();
    (String::from_utf8(output.stdout).unwrap(), console)
}

#[test]
fn page_of_a_whole_road_draws_itself_without_a_word_to_the_console() {
    let Some(browser) = chromium() else { return skip(NO_BROWSER) };
    let sandbox = Sandbox::new();
    sandbox.gives("analyze model -o spectra.json");
    sandbox.gives("plan spectra.json --err 0.5 -o plan.json");
    sandbox.gives(&format!("{SHORT} --track-gradients 2"));
    let compared = sandbox.gives(
        "compare model --text story.txt --seq-len 64 --windows 2 --keep-params 0.9 --json \
         --methods whitened --calibrate story.txt --calibration-seq-len 64 \
         --calibration-windows 4 --gradient-windows 0",
    );
    sandbox.write("compared.json", compared.stdout);
    sandbox.gives(
        "report --spectra spectra.json --plan plan.json --compare compared.json --run run \
         -o page.html",
    );
    // Tables are created when they are opened.
    let open =
        "<script>for (const d of document.querySelectorAll('details')) d.open = true</script>";
    let page = String::from_utf8(sandbox.read("page.html")).unwrap();
    sandbox.write("opened.html", page + open);
    let (dom, console) = drawn(&browser, &sandbox.path("opened.html"));
    assert_eq!(console, Vec::<String>::new());
    let count = |what: &str| dom.matches(what).count();
    assert!(count("<svg") >= 4, "{} plots", count("<svg"));
    assert!(count("<table") >= 4, "{} tables", count("<table"));
    for answer in
        ["<h2>How big?</h2>", "<h2>How fast?</h2>", "<dd class=\"missing\">not measured: "]
    {
        assert!(dom.contains(answer), "the page does not open with {answer}");
    }
    // The page shows what the artifacts contain: every matrix, and its rank in the plan.
    let plan = sandbox.json_file("plan.json");
    let matrices = plan["matrices"].as_array().unwrap();
    for matrix in matrices {
        let name = matrix["name"].as_str().unwrap();
        assert!(dom.contains(name), "{name} is not on the page");
    }
    let ranks: Vec<String> =
        matrices.iter().map(|matrix| format!(">{}<", matrix["rank"])).collect();
    assert!(ranks.iter().all(|rank| dom.contains(rank)), "a rank is not on the page");
}

#[test]
fn page_that_cannot_draw_would_be_noticed() {
    let Some(browser) = chromium() else { return skip(NO_BROWSER) };
    let sandbox = Sandbox::new();
    sandbox.write("page.html", "<script>document.getElementById('x').remove()</script>");
    let (_, console) = drawn(&browser, &sandbox.path("page.html"));
    assert!(console.iter().any(|line| line.contains("TypeError")), "{console:?}");
}
