//! `[audit]`: the destination of audit records.

use std::path::Path;
use std::time::Duration;

use toml::Value;

use crate::config::section::Section;
use crate::runtime::audit_sink::{Config, Rotation, Server, Target};
use crate::runtime::log::AuditWhenFull;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sink {
    Log,
    Stdout,
    File,
    Syslog,
    Otlp,
}

/// Reads the section.  Paths are relative to `folder`.
pub(super) fn read(top: &mut Section<'_>, folder: &Path) -> Config {
    top.section("audit", |section| {
        let sinks = [
            ("log", Sink::Log),
            ("stdout", Sink::Stdout),
            ("file", Sink::File),
            ("syslog", Sink::Syslog),
            ("otlp", Sink::Otlp),
        ];
        let sink = section.choice("sink", &sinks).unwrap_or(Sink::Log);
        let policies = [("drop-and-count", AuditWhenFull::Drop), ("block", AuditWhenFull::Block)];
        let when_full = section.choice("when_full", &policies);
        let hash_chain = section.flag("hash_chain").unwrap_or(false);
        let file = section.file("file");
        let rotation = rotation(section);
        let server =
            section.take("syslog", "udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH", server);
        for (key, is_set, needed) in
            [("file", file.is_some(), Sink::File), ("syslog", server.is_some(), Sink::Syslog)]
        {
            if is_set && sink != needed {
                section.problem(key, None, format!("used with sink = \"{key}\" only"));
            }
        }
        if hash_chain && sink != Sink::File {
            section.problem(
                "hash_chain",
                Some("`true`".to_owned()),
                "it needs audit.sink = \"file\"",
            );
        }
        if when_full.is_some() && sink == Sink::Log {
            let allowed = "for the log, set log.audit_when_full";
            section.problem("when_full", None, allowed);
        }
        let target = match (sink, file, server) {
            (Sink::Stdout, ..) => Target::Stdout,
            (Sink::File, Some(file), _) => Target::File(folder.join(file), rotation),
            (Sink::Syslog, _, Some(server)) => Target::Syslog(server),
            (Sink::Otlp, ..) => Target::Otlp,
            (Sink::Log, ..) => Target::Log,
            (Sink::File, ..) => {
                section.problem("file", None, "missing: sink = \"file\" needs a path");
                Target::Log
            }
            (Sink::Syslog, ..) => {
                section.problem("syslog", None, "missing: sink = \"syslog\" needs an address");
                Target::Log
            }
        };
        Config { target, when_full: when_full.unwrap_or_default(), hash_chain }
    })
}

fn rotation(section: &mut Section<'_>) -> Rotation {
    let max_bytes = section.number("max_bytes", 65_536..=1 << 40).unwrap_or(100 * 1024 * 1024);
    let max_age = section.duration("max_age", MINUTE..=365 * DAY).unwrap_or(DAY);
    let keep = section.size("keep", 1..=10_000).unwrap_or(14);
    let sync = section.choice("sync", &[("never", false), ("always", true)]).unwrap_or(false);
    Rotation { max_bytes, max_age, keep, sync }
}

/// An address of a syslog server.
fn server(value: &Value) -> Option<Server> {
    let text = value.as_str()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return Path::new(path).is_absolute().then(|| Server::Unix(path.into()));
    }
    let (scheme, address) = text.split_once("://")?;
    let (host, port) = address.rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    match scheme {
        _ if !is_host || !has_port => None,
        "udp" => Some(Server::Udp(address.to_owned())),
        "tcp" => Some(Server::Tcp(address.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section;

    fn read_text(text: &str) -> (Config, Vec<String>) {
        section::read_text(text, |top| read(top, Path::new("/etc")))
    }

    #[test]
    fn the_log_is_the_default() {
        assert_eq!(read_text(""), (Config::default(), Vec::new()));
    }

    #[test]
    fn accepts_a_file_and_a_syslog_server() {
        let (config, problems) = read_text(
            "[audit]\nsink = 'file'\nfile = 'audit.log'\nmax_age = '1h'\nsync = 'always'\n\
             hash_chain = true\nwhen_full = 'block'",
        );
        assert_eq!(problems, [] as [String; 0]);
        let Target::File(path, rotation) = config.target else { panic!("a file") };
        assert_eq!(path, Path::new("/etc/audit.log"));
        assert_eq!((rotation.max_age, rotation.keep, rotation.sync), (60 * MINUTE, 14, true));
        assert!(config.hash_chain && config.when_full == AuditWhenFull::Block);
        for (address, expected) in [
            ("udp://log.example:514", Server::Udp("log.example:514".into())),
            ("tcp://[::1]:601", Server::Tcp("[::1]:601".into())),
            ("unix:/dev/log", Server::Unix("/dev/log".into())),
        ] {
            let (config, problems) =
                read_text(&format!("[audit]\nsink = 'syslog'\nsyslog = '{address}'"));
            assert_eq!((config.target, problems), (Target::Syslog(expected), Vec::new()));
        }
    }

    #[test]
    fn rejects_settings_that_would_have_no_effect() {
        for (keys, expected) in [
            ("sink = 'file'", "audit.file: missing"),
            ("sink = 'syslog'", "audit.syslog: missing"),
            ("file = 'x'", "audit.file: used with"),
            ("sink = 'stdout'\nsyslog = 'unix:/x'", "audit.syslog: used with"),
            ("sink = 'stdout'\nhash_chain = true", "audit.hash_chain:"),
            ("sink = 'otlp'\nhash_chain = true", "audit.hash_chain:"),
            ("sink = 'otlp'\nsyslog = 'unix:/x'", "audit.syslog: used with"),
            ("when_full = 'block'", "audit.when_full: for the log"),
            ("sink = 'disk'", "audit.sink:"),
            ("sink = 'file'\nfile = 'x'\nmax_bytes = 1", "audit.max_bytes:"),
            ("sink = 'syslog'\nsyslog = 'http://x:1'", "audit.syslog:"),
            ("sink = 'syslog'\nsyslog = 'udp://x'", "audit.syslog:"),
            ("sink = 'syslog'\nsyslog = 'udp://a/b:1'", "audit.syslog:"),
            ("sink = 'syslog'\nsyslog = 'unix:log'", "audit.syslog:"),
        ] {
            let (_, problems) = read_text(&format!("[audit]\n{keys}"));
            let is_named = problems.iter().any(|problem| problem.starts_with(expected));
            assert!(is_named, "{expected} is not in {problems:#?}");
        }
    }
}
