//! What a server may not do, and who gets the token.

use std::fs;

use serde_json::json;

use super::{INSPECT, WEIGHTS, assert_whole, gives, run, snapshot};
use crate::hub_server::{COMMIT, HubServer, Mood};
use crate::support::{Outcome, Sandbox};

#[test]
fn token_is_sent_to_the_hub_alone_and_never_told() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let file = sandbox.path("token");
    fs::write(&file, "hf_secret\n").unwrap();
    for (name, value) in [("HF_TOKEN", "hf_secret".into()), ("HF_TOKEN_PATH", file)] {
        for status in [401, 403] {
            server.set(Mood::Refusing(status));
            let outcome = Outcome::of(server.command(&sandbox, INSPECT).env(name, &value));
            let message = outcome.complaint(2);
            assert!(message.contains(&status.to_string()), "{message}");
            assert!(outcome.stderr.contains("set HF_TOKEN"), "{outcome:?}");
            assert!(!format!("{outcome:?}").contains("hf_secret"), "{outcome:?}");
        }
    }
    server.set(Mood::Fair);
    let mut command = server.command(&sandbox, INSPECT);
    let outcome = Outcome::of(command.env("HF_TOKEN", "hf_secret"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for request in server.requests() {
        let expected = (!request.path.starts_with("/content/")).then_some("Bearer hf_secret");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
}

/// Requests that have left the model's server never have the token, wherever they go.
#[test]
fn token_is_not_sent_to_another_port_nor_back_from_there() {
    let sandbox = Sandbox::new();
    let [server, other] = [(); 2].map(|()| HubServer::of("tiny-llama"));
    server.set(Mood::Elsewhere(other.port()));
    other.set(Mood::Back(server.port()));
    let mut command = server.command(&sandbox, INSPECT);
    let outcome = Outcome::of(command.env("HF_TOKEN", "hf_secret"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_whole(&sandbox);
    let (asked, elsewhere) = (server.requests(), other.requests());
    assert_eq!((server.downloads().len(), elsewhere.len()), (1, 1));
    for request in asked.iter().chain(&elsewhere) {
        let expected = (!request.path.starts_with("/content/")).then_some("Bearer hf_secret");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
}

#[test]
fn renamed_model_is_found_with_the_token() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let mut command = server.command(&sandbox, "inspect org/old --json");
    let outcome = Outcome::of(command.env("HF_TOKEN", "hf_secret"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(server.requests().iter().any(|request| request.path.contains("org/old")));
    for request in server.requests() {
        let expected = (!request.path.starts_with("/content/")).then_some("Bearer hf_secret");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }
}

#[test]
fn redirections_end() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    for (mood, reason) in
        [(Mood::Circular, "redirects more than"), (Mood::Astray, "redirects to something")]
    {
        server.set(mood);
        let message = run(&server, &sandbox, INSPECT).complaint(1);
        assert!(message.contains(reason), "{message}");
    }
    assert!(server.requests().len() < 20);
}

#[test]
fn list_of_files_is_not_read_for_ever() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    server.set(Mood::Endless);
    let message = run(&server, &sandbox, INSPECT).complaint(1);
    assert!(message.contains("the list of files is longer than"), "{message}");
}

#[test]
fn another_commit_than_the_named_one_is_refused() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let named = "f".repeat(40);
    let message = run(&server, &sandbox, &format!("inspect org/name@{named}")).complaint(1);
    assert!(message.contains(&named) && message.contains(COMMIT), "{message}");
    assert_eq!(server.downloads().len(), 0);
    gives(&server, &sandbox, &format!("inspect org/name@{}", COMMIT.to_uppercase()));
    sandbox.gives(&format!("inspect org/name@{}", COMMIT.to_uppercase()));
}

#[test]
fn what_cannot_be_a_token_is_refused_without_telling_it() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    let outcome = Outcome::of(server.command(&sandbox, INSPECT).env("HF_TOKEN", "hf secret"));
    assert!(outcome.complaint(2).contains("HF_TOKEN"), "{outcome:?}");
    assert!(!outcome.stderr.contains("hf secret"), "{outcome:?}");
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn names_that_lead_elsewhere_are_never_written() {
    let (sandbox, server) = (Sandbox::new(), HubServer::of("tiny-llama"));
    for name in ["../evil.json", "../../../evil", "LICENSE/../../evil", "sub/evil.json", "/evil"] {
        server.put(name, "evil");
    }
    gives(&server, &sandbox, INSPECT);
    let files = fs::read_dir(snapshot(&sandbox, "")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["config.json", WEIGHTS, "tokenizer.json"]);
    assert!(server.requests().iter().all(|request| !request.path.contains("evil")));

    let index = json!({ "weight_map": { "lm_head.weight": "../../evil.safetensors" } });
    server.remove(WEIGHTS);
    server.put("model.safetensors.index.json", index.to_string());
    server.put("../../evil.safetensors", "evil");
    let message = run(&server, &sandbox, INSPECT).complaint(2);
    assert!(message.contains("model.safetensors.index.json: names a file"), "{message}");
    assert!(server.requests().iter().all(|request| !request.path.contains("evil")));
}
