//! The secrets file as operators meet it: what is taken, and the exact message
//! for each mistake, none of which may hold a secret.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its file does not hold"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use sluice_config::{ChapAlgorithm, Config, Secrets};

const VOL: &str = "iqn.2004-03.example.storage:vol0";

/// A configuration that names a secrets file with this text and mode.
struct File {
    path: PathBuf,
    config: Config,
}

impl File {
    fn new(name: &str, text: &str, mode: u32, more: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = format!(
            "[[port]]\nname = \"lan\"\ndevice = \"lan0\"\naddress = \"198.18.0.1/24\"\n\
             [[port]]\nname = \"wan\"\ndevice = \"wan0\"\naddress = \"198.19.0.1/24\"\n\
             [iscsi]\nsecrets = \"{}\"\n\
             [[target]]\nname = \"{VOL}\"\naddress = \"198.19.0.10:3260\"\ninitiators = [\"*\"]\n{more}",
            path.display()
        );
        Self {
            path,
            config: Config::parse(&config).unwrap(),
        }
    }

    /// The message, without the file's name.
    fn fault(&self) -> String {
        let message = Secrets::load(&self.config).unwrap_err().to_string();
        message.replace(&self.path.display().to_string(), "F")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn fault(name: &str, text: &str) -> String {
    File::new(name, text, 0o600, "").fault()
}

const BOTH: &str = r#"
[[computer]]
initiator = "IQN.2004-03.example.computer:a"
user = "a"
secret = "the computer's own"
relay_user = "relay"
relay_secret = "the relay's for a"
[[computer]]
initiator = "*"
user = "others"
secret = "what others know"
algorithms = ["sha256"]
[[storage]]
target = "iqn.2004-03.example.storage:vol0"
user = "relay-1"
secret = "for the storage"
"#;

#[test]
fn computers_and_storage_have_their_own() {
    let file = File::new("good", BOTH, 0o600, "");
    let secrets = Secrets::load(&file.config).unwrap();
    let [a, others] = &secrets.computers[..] else {
        panic!("two computers");
    };
    assert_eq!(
        a.initiator.as_deref(),
        Some("iqn.2004-03.example.computer:a")
    );
    assert_eq!(a.computer.secret.bytes(), b"the computer's own");
    assert_eq!(a.algorithms.len(), 3);
    assert_eq!(others.initiator, None);
    assert_eq!(others.algorithms, [ChapAlgorithm::Sha256]);
    assert!(secrets.storages[0].storage.is_none());
    assert!(secrets.demanded_by(&file.config.targets[0]));
    let shown = format!("{secrets:?} {:?}", file.config);
    for secret in ["own", "for a", "others know", "for the storage"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_target_may_do_without_and_none_may_do_with_nobody() {
    let file = File::new("without", BOTH, 0o600, "chap = false\n");
    let secrets = Secrets::load(&file.config).unwrap();
    assert!(!secrets.demanded_by(&file.config.targets[0]));
    let file = File::new("nobody", "", 0o600, "chap = true\n");
    assert_eq!(
        file.fault(),
        format!(
            "F:1: target {VOL} has chap = true, and there is no [[computer]]: nobody could log in; add one (iscsi.secrets names the file)"
        )
    );
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    for mode in [0o640, 0o604, 0o620, 0o666] {
        let file = File::new(&format!("mode-{mode:o}"), BOTH, mode, "");
        assert_eq!(
            file.fault(),
            format!("F: mode {mode:04o} lets others at the secrets in it; run: chmod 600 F")
        );
    }
    let mut file = File::new("missing", BOTH, 0o600, "");
    file.config.iscsi.secrets = Some("/nonexistent/secrets.toml".into());
    assert_eq!(
        file.fault(),
        "/nonexistent/secrets.toml: the secrets cannot be read (No such file or directory (os error 2)); let the data plane's user own the file, or name another in iscsi.secrets"
    );
}

#[test]
fn each_mistake_has_its_message_and_none_a_secret() {
    let computer = |lines: &str| format!("[[computer]]\ninitiator = \"*\"\n{lines}");
    let storage = |keys: &str| format!("[[storage]]\ntarget = \"{VOL}\"\n{keys}");
    for (name, text, message) in [
        (
            "short",
            computer("user = \"u\"\nsecret = \"elevenbytes\"\n"),
            "F:1: secret has 11 bytes: must be 12 to 255 (96 bits at least); draw one with `openssl rand -hex 16`",
        ),
        (
            "half",
            computer("user = \"u\"\nsecret = \"twelve bytes\"\nrelay_user = \"r\"\n"),
            "F:1: relay_user and relay_secret go together; write both for mutual CHAP, or neither",
        ),
        (
            "one-secret",
            computer("user = \"u\"\nsecret = \"twelve bytes\"\nrelay_user = \"r\"\nrelay_secret = \"twelve bytes\"\n"),
            "F:1: users \"u\" and \"r\" have one secret: what one side proves itself with must not be what another does, nor the relay's the same on both sides; draw a second one",
        ),
        (
            "both-roles",
            format!(
                "{}{}",
                computer("user = \"u\"\nsecret = \"eleven bytes\"\nrelay_user = \"r\"\nrelay_secret = \"twelve bytes\"\n"),
                storage("user = \"s\"\nsecret = \"twelve bytes\"\n"),
            ),
            "F:1: users \"r\" and \"s\" have one secret: what one side proves itself with must not be what another does, nor the relay's the same on both sides; draw a second one",
        ),
        (
            "one-name",
            format!(
                "{}{}",
                computer("user = \"u\"\nsecret = \"eleven bytes\"\nrelay_user = \"r\"\nrelay_secret = \"twelve bytes\"\n"),
                storage("user = \"r\"\nsecret = \"thirteen bytes\"\n"),
            ),
            "F:1: user \"r\" is the relay's name to computers and to a storage: give it another in one of them",
        ),
        (
            "round",
            format!(
                "{}[[storage]]\ntarget = \"{VOL}\"\nuser = \"s\"\nsecret = \"twelve bytes\"\n",
                computer("user = \"u\"\nsecret = \"twelve bytes\"\n")
            ),
            "F:1: users \"u\" and \"s\" have one secret: what one side proves itself with must not be what another does, nor the relay's the same on both sides; draw a second one",
        ),
        (
            "target",
            "[[storage]]\ntarget = \"iqn.2004-03.example.storage:other\"\nuser = \"s\"\nsecret = \"twelve bytes\"\n".to_owned(),
            "F:1: target = \"iqn.2004-03.example.storage:other\": no [[target]] of the configuration has this name",
        ),
        (
            "twice",
            computer("user = \"u\"\nsecret = \"twelve bytes\"\n").repeat(2),
            "F:5: another [[computer]] has this initiator; keep one",
        ),
        (
            "hash",
            computer("user = \"u\"\nsecret = \"twelve bytes\"\nalgorithms = [\"md5\", \"md5\"]\n"),
            "F:1: algorithms: must be one or more of \"sha256\", \"sha1\", \"md5\", each once",
        ),
        (
            "number",
            computer("user = \"u\"\nsecret = 123456789012\n"),
            "F:4: is not TOML of the shape that docs/operations.md shows (not quoted, since it may be a secret)",
        ),
        (
            "garbage",
            "secret = \"unclosed and secret\n".to_owned(),
            "F:1: is not TOML of the shape that docs/operations.md shows (not quoted, since it may be a secret)",
        ),
        (
            "field",
            computer("user = \"u\"\n"),
            "F:1: missing field `secret`",
        ),
    ] {
        assert_eq!(fault(name, &text), message, "{name}");
    }
}
