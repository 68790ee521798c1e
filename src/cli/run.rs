//! `anchorgate run`: a gateway from its start to its stop.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::interval;
use tracing::{Level, enabled, error, info, warn};

use crate::app::App;
use crate::cli::{exit, failed};
use crate::config::Config;
use crate::http::otlp::{self, Collector};
use crate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities};
use crate::runtime::telemetry::Telemetry;
use crate::runtime::telemetry::settings::Settings;
use crate::runtime::{audit_sink, core_dumps, files, log};

/// Limit of the file with the collector's certification authorities.
const MAX_BUNDLE: u64 = 1 << 20;

/// Runs a gateway until SIGTERM or Ctrl-C.  A second signal ends it at once.
pub(super) async fn run(config: Config) -> ExitCode {
    let files = config.insecure_files(config.keyring.file_modes);
    if !files.refused.is_empty() {
        files.refused.iter().for_each(|fault| eprintln!("{fault}"));
        return exit::CONFIG.into();
    }
    let telemetry = match telemetry() {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{error}");
            return exit::CONFIG.into();
        }
    };
    let layer = telemetry.layer();
    let (filter, format) = (&config.log_filter, config.log_format);
    if let Err(error) = log::start(filter, format, config.audit_when_full, layer) {
        eprintln!("log.filter: {error}");
        return exit::CONFIG.into();
    }
    if let Err(error) = audit_sink::start(&config.audit, telemetry.log_channel()) {
        eprintln!("{error}");
        return exit::FAILURE.into();
    }
    if let Err(error) = core_dumps::disable() {
        warn!(%error, "core dumps could not be switched off: a crash can write keys to a disk");
    }
    for fault in &files.reported {
        warn!("{fault}");
    }
    // Before anything runs.  Without a handler, SIGHUP ends the process, and a process with the number
    // 1 ignores the others.
    let handlers = Signals::new().and_then(|stops| Ok((stops, signal(SignalKind::hangup())?)));
    let (mut signals, mut hangups) = match handlers {
        Ok(handlers) => handlers,
        Err(error) => return failed(&error.into()),
    };
    let app = tokio::select! {
        app = App::start(config) => match app {
            Ok(app) => app,
            Err(error) if enabled!(Level::ERROR) => {
                error!("{error:#}");
                log::flush();
                return exit::FAILURE.into();
            }
            Err(error) => return failed(&error),
        },
        _ = signals.stop() => {
            info!("stopped before the start was complete");
            log::flush();
            return ExitCode::SUCCESS;
        }
    };
    notify(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    let metrics = app.metrics();
    {
        let mut export = pin!(telemetry.export_metrics(metrics));
        loop {
            tokio::select! {
                _ = signals.stop() => break,
                () = &mut export => {}
                () = app.failed() => break,
                _ = hangups.recv() => app.reload(),
            }
        }
    }
    notify(&[NotifyState::Stopping]);
    info!("stopping: finishing requests in progress; a second signal ends the process at once");
    let code = tokio::select! {
        is_clean = app.stop() => if is_clean { ExitCode::SUCCESS } else { exit::FAILURE.into() },
        signal = signals.stop() => {
            warn!("second signal: requests in progress are cut");
            exit::signalled(signal).into()
        }
    };
    info!("stopped");
    watchdog.abort();
    telemetry.stop().await;
    audit_sink::flush();
    log::flush();
    code
}

/// Starts the export that the environment variables describe.
fn telemetry() -> Result<Telemetry, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(settings) = Settings::read(variable).map_err(|error| error.to_string())? else {
        return Ok(Telemetry::default());
    };
    let authorities = match &settings.certificate {
        None => ServerAuthorities::System,
        Some(file) => {
            let bundle = files::read_bounded(Path::new(file), MAX_BUNDLE);
            let bundle =
                bundle.map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}"))?;
            ServerAuthorities::Only(bundle)
        }
    };
    let client = ClientSettings {
        authorities,
        proxy: ProxyChoice::Environment,
        ..ClientSettings::default()
    };
    let client = otlp::client(&client).map_err(|error| format!("OpenTelemetry export: {error}"))?;
    Telemetry::start(&settings, |signal| Collector::new(client.clone(), signal))
}

/// Signals that stop the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or Ctrl-C.
    async fn stop(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Tells the service manager about the state of the process, if there is one (sd_notify(3)).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "service manager not notified");
    }
}

/// Reports to the watchdog of the service manager, if it has one, for as long as tasks are run.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(limit / 2);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}
