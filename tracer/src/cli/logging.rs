//! The program's own log on stderr: what is logged, and in which form.

use std::io::Write as _;

use jiff::Timestamp;
use log::{Level, Record};
use serde::Serialize;
use tracer_core::report::rfc3339;

/// Arguments about the log.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct Args {
    /// What to log to stderr: error, warn, info, debug, trace, or MODULE=LEVEL, separated by commas [default: warn; off
    /// in `top`]
    #[arg(long, global = true, value_name = "FILTER", env = "EGRESS_TRACER_LOG", hide_env_values = true)]
    log: Option<String>,
    /// Form of the log
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "EGRESS_TRACER_LOG_FORMAT",
        hide_env_values = true
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line: time, level, target, message
    Json,
}

/// A line of the log as JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    target: &'a str,
    message: &'a str,
}

impl Args {
    /// Starts the log. `level` is what is logged by default.
    pub(super) fn start(&self, level: &str) {
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(self.log.as_deref().unwrap_or(level));
        if self.log_format == LogFormat::Json {
            builder.format(|to, record| writeln!(to, "{}", json(record)));
        }
        builder.init();
    }

    /// Prints the error that ends the program.
    pub(super) fn print_error(&self, error: &anyhow::Error) {
        match self.log_format {
            LogFormat::Text => eprintln!("egress-tracer: {error:#}"),
            LogFormat::Json => {
                let message = format!("{error:#}");
                eprintln!("{}", line(Level::Error, "egress_tracer", &message));
            }
        }
    }
}

fn json(record: &Record<'_>) -> String {
    line(record.level(), record.target(), &record.args().to_string())
}

fn line(level: Level, target: &str, message: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let line = Line { time: rfc3339(Timestamp::now()), level, target, message };
    serde_json::to_string(&line).unwrap_or_default() // strings always have a JSON form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_json_stays_one_line_and_can_be_read_back() {
        let arguments = format_args!("a \"quoted\"\nmessage {}", 7).to_string();
        let text = line(Level::Warn, "tracer::runtime", &arguments);
        assert!(!text.contains('\n') && text.starts_with("{\"time\":\"2"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "warn");
        assert_eq!(value["target"], "tracer::runtime");
        assert_eq!(value["message"], "a \"quoted\"\nmessage 7");
    }
}
