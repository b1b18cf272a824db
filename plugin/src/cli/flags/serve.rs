//! What can be typed after `reptune serve`.

use clap::Args;
use reptune_adapters::{Dose, HookPoint};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  reptune serve --model DIR --steer honest=honesty.safetensors:layers=14-16,coeff=19
  reptune serve --model DIR --steer a=d.safetensors:layers=2,coeff=20 \\
      --steer b=d.safetensors:layers=2,coeff=-20
  reptune serve --model DIR --adapter tuned=ADAPTER \\
      --steer both=d.safetensors:layers=1-2,fraction=0.5,on=tuned
  curl localhost:8080/v1/models
  curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{\"model\": \"honest\", \"messages\": [{\"role\": \"user\", \"content\": \"Is it true?\"}]}'
  curl localhost:8080/v1/steering -H 'Content-Type: application/json' \\
      -d '{\"model\": \"honest\", \"coeff\": 12}'

The model itself is called base, and answers where a request names none (or default).
Every variant is a model with a full copy of the weights. Requests to one model are
answered in turn, those to several at the same time. GET /v1/steering tells the steered
ones; POST changes a coeff while the server runs: the old weights answer until the new
ones are loaded. Bodies may have 2 MiB, and must come within 30 seconds. Ctrl-C or SIGTERM
lets nobody new in and ends when all are answered, or after --drain seconds; a second one
ends at once. What is made is kept in REPTUNE_CACHE (~/.cache/reptune), which may be
removed at any time.";

#[derive(Args)]
pub struct Serve {
    /// Model directory, .uqff file or hub id
    #[arg(long)]
    pub model: String,
    /// A steered variant: NAME=FILE:layers=1-2,coeff=40. Layers as 1-3,5 or all; fraction=
    /// or strength= (vectors as they were stored) instead of coeff=; at=input for the input of
    /// the blocks; on=NAME for a tuned variant
    #[arg(long, value_name = "VARIANT", value_parser = steer)]
    pub steer: Vec<Steer>,
    /// A tuned variant: NAME=DIR with a PEFT directory, which is merged into the weights
    #[arg(long, value_name = "VARIANT", value_parser = adapter)]
    pub adapter: Vec<Adapter>,
    /// Type of the weights of all models, such as q8_0 or q4k; as they are if not given
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Address to listen on; others than this machine's own let the network in
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Seconds that answers get to end in when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain: u64,
    /// Print address, models and bytes of weights as JSON, on one line, when it serves
    #[arg(long)]
    pub json: bool,
}

/// `NAME=FILE:layers=..,coeff=..`
#[derive(Debug, Clone, PartialEq)]
pub struct Steer {
    pub name: String,
    pub file: PathBuf,
    pub layers: String,
    pub dose: Dose,
    pub point: HookPoint,
    /// The tuned variant that is steered, instead of the base.
    pub on: Option<String>,
}

/// `NAME=DIR`
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub name: String,
    pub directory: PathBuf,
}

fn adapter(text: &str) -> Result<Adapter, String> {
    let (name, directory) = named(text)?;
    Ok(Adapter { name, directory })
}

fn steer(text: &str) -> Result<Steer, String> {
    let (head, settings) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("expected FILE:layers=1-2,coeff=40, found `{text}`"))?;
    let (name, file) = named(head)?;
    let mut steer = Steer {
        name,
        file,
        layers: String::new(),
        dose: Dose::Total(f64::NAN),
        point: HookPoint::ResidPost,
        on: None,
    };
    let mut dosed = false;
    for (key, value) in pairs(settings)? {
        let number = || {
            let number = value.trim().parse::<f64>().ok().filter(|x| x.is_finite());
            number.ok_or_else(|| format!("expected a number as {key}, found `{value}`"))
        };
        match key {
            "layers" => steer.layers = value.clone(),
            "coeff" | "fraction" | "strength" if dosed => {
                return Err("expected one dose, found two".into());
            }
            "coeff" => (steer.dose, dosed) = (Dose::Total(number()?), true),
            "fraction" => (steer.dose, dosed) = (Dose::Fraction(number()?), true),
            "strength" => (steer.dose, dosed) = (Dose::Strength(number()?), true),
            "at" if value == "output" => steer.point = HookPoint::ResidPost,
            "at" if value == "input" => steer.point = HookPoint::ResidPre,
            "at" => return Err(format!("expected at=output or at=input, found at={value}")),
            "on" => steer.on = Some(value.clone()),
            other => {
                return Err(format!(
                    "expected layers, coeff, fraction, strength, at or on, found `{other}`"
                ));
            }
        }
    }
    match (steer.layers.is_empty(), dosed) {
        (true, _) => Err("expected layers=.., for example layers=1-2".into()),
        (_, false) => Err("expected coeff=.. or fraction=.., for example coeff=40".into()),
        _ => Ok(steer),
    }
}

/// `layers=1,3,coeff=40` is layers 1,3 and coeff 40: what has no key belongs to the last.
fn pairs(settings: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for piece in settings.split(',') {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key.trim(), value.trim().to_owned())),
            (None, Some((_, value))) => *value = format!("{value},{}", piece.trim()),
            (None, None) => return Err(format!("expected KEY=VALUE, found `{piece}`")),
        }
    }
    Ok(pairs)
}

/// `NAME=PATH`; without a name that of the file.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.trim().to_owned(), path),
        None => {
            let stem = Path::new(text).file_stem().unwrap_or_default();
            (stem.to_string_lossy().into_owned(), text)
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        true => Err(format!(
            "expected a name of letters, digits, `.`, `_` and `-`, found `{name}`; for example honest={path}"
        )),
        false => Ok((name, PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_a_file_and_settings() {
        let parsed = steer("honest=a/d.safetensors:layers=1,3-4,coeff=-40,at=input,on=tuned");
        let expected = Steer {
            name: "honest".into(),
            file: "a/d.safetensors".into(),
            layers: "1,3-4".into(),
            dose: Dose::Total(-40.),
            point: HookPoint::ResidPre,
            on: Some("tuned".into()),
        };
        assert_eq!(parsed, Ok(expected));
        let parsed = steer("a/calm.safetensors:layers=all,fraction=0.5").expect("no name");
        assert_eq!(
            (parsed.name.as_str(), parsed.dose),
            ("calm", Dose::Fraction(0.5))
        );
        let adapter = adapter("runs/my/tuned/truth").expect("no name");
        assert_eq!(adapter.name, "truth");
    }

    #[test]
    fn what_is_no_variant_is_told_by_its_part() {
        for (text, said) in [
            ("d.safetensors", "expected FILE:layers=1-2,coeff=40"),
            ("d.safetensors:1-2", "expected KEY=VALUE, found `1-2`"),
            ("d.safetensors:layers=1", "expected coeff=.. or fraction=.."),
            ("d.safetensors:coeff=1", "expected layers=.."),
            (
                "d.safetensors:layers=1,coeff=x",
                "expected a number as coeff, found `x`",
            ),
            (
                "d.safetensors:layers=1,coeff=1,fraction=1",
                "expected one dose, found two",
            ),
            ("d.safetensors:layers=1,coeff=1,at=head", "found at=head"),
            ("d.safetensors:layers=1,coef=1", "found `coef`"),
            ("a b=d.safetensors:layers=1,coeff=1", "found `a b`"),
        ] {
            let message = steer(text).expect_err(text);
            assert!(message.contains(said), "{message}");
        }
    }
}
