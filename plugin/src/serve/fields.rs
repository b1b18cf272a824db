//! The fields of a request, checked: what is not honoured is refused by name.
//!
//! A field that is null counts as not given. Nothing here depends on how answers are computed,
//! but for the grammars, which are mistral.rs's.

use super::request::{Refusal, shown};
use super::sampling::RequestSampling;
use mistralrs_core::{Constraint, DrySamplingParams};
use mistralrs_server_core::openai::Grammar;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The two kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What both kinds of requests may ask for.
#[derive(Clone)]
pub struct Fields {
    /// How many answers.
    pub n: usize,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: RequestSampling,
    /// A penalty on repetitions.
    pub dry: Option<DrySamplingParams>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether the answer is sent in pieces.
    pub stream: bool,
    /// Whether a last piece counts the tokens.
    pub include_usage: bool,
    /// Whether log-probabilities are sent, and of how many alternatives.
    pub logprobs: Option<usize>,
    /// Whether the answer of a completion begins with its prompt.
    pub echo: bool,
    /// What the answer must look like.
    pub constraint: Constraint,
    /// Whether tool calls are looked for in the answer.
    pub calls: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            n: 1,
            max_tokens: None,
            sampling: RequestSampling::default(),
            dry: None,
            stop: Vec::new(),
            stream: false,
            include_usage: false,
            logprobs: None,
            echo: false,
            constraint: Constraint::None,
            calls: false,
        }
    }
}

/// Fields of both kinds of requests that mean something here.
const BOTH: [&str; 25] = [
    "model",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "grammar",
    "response_format",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_sequence_breakers",
    "echo",
];

const CHAT: [&str; 12] = [
    "messages",
    "top_logprobs",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "chat_template_kwargs",
    "enable_thinking",
    "reasoning_effort",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
];

/// Fields that say nothing about the answer: who asks, and how OpenAI is to keep and bill it.
const IGNORED: [&str; 11] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "parallel_tool_calls",
    "prediction",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "modalities",
];

/// Fields that this server does not honour, and why.
const REFUSED: [(&str, &str); 5] = [
    ("web_search_options", "this server fetches nothing"),
    ("suffix", "no model here fills in a middle"),
    ("functions", "use `tools`"),
    ("function_call", "use `tool_choice`"),
    ("truncate_sequence", "shorten the prompt"),
];

impl Fields {
    /// Reads `body`; 400 with the name of the field for what is wrong, unknown or not honoured.
    pub fn read(body: &Map<String, Value>, endpoint: Endpoint) -> Result<Self, Refusal> {
        let body = Body(body);
        body.known(endpoint)?;
        let chat = endpoint == Endpoint::Chat;
        let n = body.whole("n", 1, 16)?.unwrap_or(1);
        if let Some(best_of) = body.whole("best_of", 1, 16)?.filter(|best| *best != n) {
            let message = format!("expected `best_of` to equal `n`, {n}, found {best_of}");
            return Err(Refusal::field("best_of", message));
        }
        let most = body.whole("max_tokens", 1, usize::MAX)?;
        let stream = body.flag("stream")?.unwrap_or_default();
        let logprobs = match endpoint {
            Endpoint::Completion => body.whole("logprobs", 0, 20)?,
            Endpoint::Chat => {
                let top = body.whole("top_logprobs", 0, 20)?;
                let asked = body.flag("logprobs")?.unwrap_or_default();
                if top.is_some_and(|top| top > 0) && !asked {
                    let message = "expected `logprobs` true beside `top_logprobs`";
                    return Err(Refusal::field("top_logprobs", message));
                }
                asked.then(|| top.unwrap_or(0))
            }
        };
        let echo = body.flag("echo")?.unwrap_or_default();
        if echo && (chat || logprobs.is_some()) {
            let message = "expected `echo` only in completions, and without `logprobs`";
            return Err(Refusal::field("echo", message));
        }
        let calls = Calls::read(&body)?;
        let constraint = match (body.constraint()?, calls.schema) {
            (Constraint::None, Some(schema)) => Constraint::JsonSchema(schema),
            (constraint, None) => constraint,
            (_, Some(_)) => {
                let message = "expected no `response_format` or `grammar` where a call is required";
                return Err(Refusal::field("tool_choice", message));
            }
        };
        Ok(Self {
            n,
            max_tokens: body.whole("max_completion_tokens", 1, usize::MAX)?.or(most),
            sampling: body.sampling()?,
            dry: body.dry()?,
            stop: body.stop()?,
            stream,
            include_usage: body.include_usage(stream)?,
            logprobs,
            echo,
            constraint,
            calls: calls.looked_for,
        })
    }
}

/// The fields of a request that are not null.
pub struct Body<'a>(pub &'a Map<String, Value>);

impl Body<'_> {
    /// The value of a field, if it is given.
    pub fn given(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn known(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        for field in self.0.keys().filter(|name| self.given(name).is_some()) {
            let field = field.as_str();
            if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == field) {
                return Err(Refusal::field(
                    field,
                    format!("expected no `{field}`: {why}"),
                ));
            }
            let known = match endpoint {
                Endpoint::Chat => CHAT.contains(&field),
                Endpoint::Completion => field == "prompt",
            };
            if !known && !BOTH.contains(&field) && !IGNORED.contains(&field) {
                let message =
                    format!("this server does not know the field `{field}`; leave it out");
                return Err(Refusal::field(field, message));
            }
        }
        Ok(())
    }

    /// `name` is not `expected`.
    pub fn wrong(&self, name: &str, expected: impl std::fmt::Display) -> Refusal {
        let found = self.given(name).map_or("nothing".into(), shown);
        Refusal::field(name, format!("expected `{name}` {expected}, found {found}"))
    }

    fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|x| (least..=most).contains(x));
        let wrong = || self.wrong(name, format_args!("from {least} to {most}"));
        number.ok_or_else(wrong).map(Some)
    }

    fn whole(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|x| usize::try_from(x).ok());
        let number = number.filter(|x| (least..=most).contains(x));
        let wrong = || match most {
            usize::MAX => self.wrong(name, format_args!("from {least}, a whole number")),
            _ => self.wrong(name, format_args!("from {least} to {most}")),
        };
        number.ok_or_else(wrong).map(Some)
    }

    /// A field that is true or false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let wrong = |_: &Value| self.wrong(name, "true or false");
        let value = self.given(name);
        value
            .map(|v| v.as_bool().ok_or_else(|| wrong(v)))
            .transpose()
    }

    fn typed<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let parsed = self.given(name).map(|v| serde_json::from_value(v.clone()));
        parsed.transpose().map_err(|_| self.wrong(name, expected))
    }

    fn sampling(&self) -> Result<RequestSampling, Refusal> {
        let off = RequestSampling::default();
        let number = |name: &str, least: f64, most: f64, default: f64| {
            Ok::<f64, Refusal>(self.number(name, least, most)?.unwrap_or(default))
        };
        let penalty = |name| Ok::<f32, Refusal>(number(name, -2., 2., 0.)? as f32);
        let top_k = self.typed::<i64>("top_k", "a whole number, 0 or -1 for off")?;
        let top_k = match top_k.unwrap_or_default() {
            -1 => 0,
            k => usize::try_from(k).map_err(|_| self.wrong("top_k", "from -1"))?,
        };
        let expected = "a map from token ids to numbers";
        let bias = self.typed::<Map<String, Value>>("logit_bias", expected)?;
        let bias = bias.unwrap_or_default().into_iter().map(|(id, bias)| {
            let pair = id.parse::<u32>().ok().zip(bias.as_f64());
            let (id, bias) = pair.ok_or_else(|| self.wrong("logit_bias", expected))?;
            Ok((id, bias as f32))
        });
        let seed = self.given("seed").map(|seed| {
            let number = seed.as_u64().or(seed.as_i64().map(|s| s as u64));
            number.ok_or_else(|| self.wrong("seed", "a whole number"))
        });
        Ok(RequestSampling {
            temperature: number("temperature", 0., 100., off.temperature)?,
            top_k,
            top_p: number("top_p", 0., 1., off.top_p)?,
            min_p: number("min_p", 0., 1., off.min_p)?,
            frequency_penalty: penalty("frequency_penalty")?,
            presence_penalty: penalty("presence_penalty")?,
            repetition_penalty: number("repetition_penalty", 0., 100., 1.)? as f32,
            logit_bias: bias.collect::<Result<_, Refusal>>()?,
            seed: seed.transpose()?,
        })
    }

    fn dry(&self) -> Result<Option<DrySamplingParams>, Refusal> {
        let Some(multiplier) = self.number("dry_multiplier", 0., 100.)? else {
            return Ok(None);
        };
        let breakers = self.typed("dry_sequence_breakers", "a list of texts")?;
        let base = self.typed("dry_base", "a number")?;
        let length = self.whole("dry_allowed_length", 0, usize::MAX)?;
        let dry = DrySamplingParams::new_with_defaults(multiplier as f32, breakers, base, length);
        dry.map(Some).map_err(Refusal::invalid)
    }

    fn stop(&self) -> Result<Vec<String>, Refusal> {
        let stop = match self.given("stop") {
            Some(Value::String(one)) => vec![one.clone()],
            _ => self
                .typed("stop", "a text or a list of texts")?
                .unwrap_or_default(),
        };
        // Nothing can end where nothing stands.
        Ok(stop.into_iter().filter(|text| !text.is_empty()).collect())
    }

    fn include_usage(&self, stream: bool) -> Result<bool, Refusal> {
        let Some(options) = self.given("stream_options") else {
            return Ok(false);
        };
        match &options["include_usage"] {
            _ if !stream => Err(self.wrong("stream_options", "only where `stream` is true")),
            Value::Null if options.is_object() => Ok(false),
            Value::Bool(asked) => Ok(*asked),
            _ => Err(self.wrong("stream_options", "with `include_usage` true or false")),
        }
    }

    fn constraint(&self) -> Result<Constraint, Refusal> {
        let expected = "with a `type` of regex, json_schema, lark or llguidance, and its `value`";
        let grammar = self.typed::<Grammar>("grammar", expected)?;
        let format = self.given("response_format");
        let kind = format.map(|format| format["type"].as_str().unwrap_or_default());
        let format = match (kind, format) {
            (None, _) | (_, None) => None,
            (Some("text"), _) => return Ok(grammar.map_or(Constraint::None, constraint)),
            (Some("json_object"), _) => Some(json!({"type": "object"})),
            (Some("json_schema"), Some(format)) => match &format["json_schema"]["schema"] {
                schema @ (Value::Object(_) | Value::Bool(_)) => Some(schema.clone()),
                _ => return Err(self.wrong("response_format", "with `json_schema.schema`")),
            },
            _ => {
                let expected = "of the type text, json_object or json_schema";
                return Err(self.wrong("response_format", expected));
            }
        };
        match (grammar, format) {
            (Some(_), Some(_)) => Err(self.wrong("grammar", "only without `response_format`")),
            (Some(grammar), None) => Ok(constraint(grammar)),
            (None, Some(schema)) => Ok(Constraint::JsonSchema(schema)),
            (None, None) => Ok(Constraint::None),
        }
    }
}

fn constraint(grammar: Grammar) -> Constraint {
    match grammar {
        Grammar::Regex(regex) => Constraint::Regex(regex),
        Grammar::Lark(lark) => Constraint::Lark(lark),
        Grammar::JsonSchema(schema) => Constraint::JsonSchema(schema),
        Grammar::Llguidance(grammar) => Constraint::Llguidance(grammar),
    }
}

/// What a request says of calls of its tools.
struct Calls {
    looked_for: bool,
    /// The schema of the call that is required.
    schema: Option<Value>,
}

impl Calls {
    fn read(body: &Body) -> Result<Self, Refusal> {
        let tools = tools(body)?;
        let choice = body.given("tool_choice");
        let name = choice.and_then(|choice| choice["function"]["name"].as_str());
        let required = match (choice.map(|c| c.as_str()), name) {
            (None | Some(Some("auto")), _) => None,
            (Some(Some("none")), _) => {
                let (looked_for, schema) = (false, None);
                return Ok(Self { looked_for, schema });
            }
            (Some(Some("required")), _) => Some(tools.iter().collect::<Vec<_>>()),
            (Some(None), Some(name)) => {
                let called = tools.iter().find(|tool| tool["function"]["name"] == name);
                let called = called.ok_or_else(|| body.wrong("tool_choice", "one of `tools`"))?;
                Some(vec![called])
            }
            _ => {
                let expected = "none, auto, required or a function by name";
                return Err(body.wrong("tool_choice", expected));
            }
        };
        if required.as_ref().is_some_and(Vec::is_empty) {
            return Err(body.wrong("tool_choice", "only beside `tools`"));
        }
        let call = |tool: &&Value| {
            let function = &tool["function"];
            let arguments = match &function["parameters"] {
                Value::Null => json!({"type": "object"}),
                schema => schema.clone(),
            };
            json!({
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        };
        let schema = required.map(|tools| match tools.as_slice() {
            [one] => call(one),
            several => json!({"anyOf": several.iter().map(call).collect::<Value>()}),
        });
        Ok(Self {
            looked_for: !tools.is_empty(),
            schema,
        })
    }
}

/// The tools of a request, as they are given to the chat template.
pub fn tools(body: &Body) -> Result<Vec<Value>, Refusal> {
    let tools: Vec<Value> = body.typed("tools", "a list of tools")?.unwrap_or_default();
    for (i, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" || !tool["function"]["name"].is_string() {
            let place = format!("tools[{i}]");
            let message = format!(
                "expected `{place}` of the type function, with a `function.name`, found {}",
                shown(tool)
            );
            return Err(Refusal::field(place, message));
        }
    }
    Ok(tools)
}

#[cfg(test)]
mod tests;
