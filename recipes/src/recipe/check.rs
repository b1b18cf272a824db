//! Checks of values that the types of the schema allow but that make no sense.

use super::{
    Data, DataFormat, Evaluation, Extraction, ExtractionMethod, JudgeSettings, Personas,
    PromptTemplates, Recipe, Retention, Search, Selection, SteeringSettings, Study, Tuning,
    Without,
};
use reptune_adapters::steering::positions::PositionsUse;
use reptune_adapters::{Error, Operator, Positions, Result};
use std::fmt::{Debug, Display};

/// A table of the recipe, by its name.
struct Table<'a>(&'a str);

impl Table<'_> {
    fn wrong(&self, key: &str, expected: &str, found: impl Display) -> Result<()> {
        let place = match key {
            "" => self.0.to_owned(),
            key => format!("{}.{key}", self.0),
        };
        Err(Error::value(place, expected, found.to_string(), ""))
    }

    /// Refuses the value at `key` (the table itself if it is empty) unless it `fits`.
    fn need(&self, fits: bool, key: &str, expected: &str, found: impl Display) -> Result<()> {
        match fits {
            true => Ok(()),
            false => self.wrong(key, expected, found),
        }
    }

    fn positive(&self, key: &str, value: impl Into<Option<f64>>) -> Result<()> {
        let value = value.into().unwrap_or(1.);
        self.need(positive(value), key, "a positive number", value)
    }

    fn not_negative(&self, key: &str, value: impl Into<Option<f64>>) -> Result<()> {
        let value = value.into().unwrap_or(0.);
        let fits = positive(value) || value == 0.;
        self.need(fits, key, "0 or a positive number", value)
    }

    fn positions(&self, of: &Positions, used: PositionsUse) -> Result<()> {
        match of.check(used) {
            Err(Error::Value {
                expected, found, ..
            }) => self.wrong("positions", &expected, found),
            other => other,
        }
    }

    fn once<T: PartialEq + Debug>(&self, key: &str, list: &[T]) -> Result<()> {
        match repeated(list) {
            Some(value) => self.wrong(key, "each value once", format!("{value:?} twice")),
            None => Ok(()),
        }
    }
}

fn positive(x: f64) -> bool {
    x.is_finite() && x > 0.
}

/// The first value that stands twice in a list.
fn repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    let again = (1..list.len()).find(|&i| list[..i].contains(&list[i]));
    again.map(|i| &list[i])
}

impl Recipe {
    /// Refuses values that cannot be: `what` of an [`Error::Value`] is the key.
    pub(super) fn check(&self) -> Result<()> {
        behaviour(&self.behaviour)?;
        prompt(&self.prompt)?;
        let split = self.data.split;
        let fits = split.iter().all(|s| positive(*s)) && split[0] + split[1] < 1.;
        let (expected, found) = ("two positive shares with a sum below 1", split);
        Table("data").need(fits, "split", expected, format!("{found:?}"))?;
        data(&self.data)?;
        extraction(&self.extraction, &self.prompt.markers())?;
        self.selection.iter().try_for_each(selection)?;
        self.study.iter().try_for_each(study)?;
        self.retention.iter().try_for_each(retention)?;
        tuning(&self.tuning)?;
        evaluation(&self.evaluation)?;
        self.search
            .iter()
            .try_for_each(|s| search(s, &self.tuning))?;
        let s = &self.steering;
        steering(s)?;
        let plain = s.operator == Operator::Add && s.gate.is_none() && s.directions.is_none();
        let expected = "steering that adds the extracted direction: doses are measured with it";
        let found = "steering with `operator`, `gate` or `directions`";
        Table("selection").need(self.selection.is_none() || plain, "", expected, found)?;
        let (fits, found) = (s.positions.in_prompt(), format!("`{}`", s.positions));
        let expected = "positions of prompt tokens, after which `[selection]` scores answers";
        Table("steering").need(
            self.selection.is_none() || fits,
            "positions",
            expected,
            found,
        )
    }
}

fn behaviour(b: &Personas) -> Result<()> {
    let at = Table("behaviour");
    let fits = !b.positive.is_empty() && !b.negative.is_empty();
    let expected = "at least one positive and one negative wording";
    at.need(fits, "", expected, "none")?;
    let (p, n) = (&b.poles.positive, &b.poles.negative);
    let fits = !p.is_empty() && !n.is_empty() && p != n;
    let found = format!("`{p}` and `{n}`");
    at.need(fits, "poles", "two different names", found)
}

pub(super) fn prompt(p: &PromptTemplates) -> Result<()> {
    let at = Table("prompt");
    let (fits, found) = (p.claim.contains("{claim}"), format!("`{}`", p.claim));
    at.need(fits, "claim", "a template with {claim}", found)?;
    if let Some(name) = repeated(&p.markers()) {
        let found = format!("<<{name}>>");
        return at.wrong("claim", "markers with different names", found);
    }
    let mut fields = ["{question}", "{a}", "{b}"].iter();
    let (fits, found) = (
        fields.all(|f| p.choice.contains(f)),
        format!("`{}`", p.choice),
    );
    let expected = "a template with {question}, {a} and {b}";
    at.need(fits, "choice", expected, found)?;
    let [a, b] = &p.labels;
    let found = format!("`{a}` twice");
    at.need(a != b, "labels", "two different labels", found)
}

/// Columns are named in the recipe's own formats only; the others have fixed ones.
fn data(d: &Data) -> Result<()> {
    let check = |key: &str, given: Option<DataFormat>, own: DataFormat, named: bool| {
        let other = given.filter(|given| named && *given != own);
        let expected = format!("`{own}`, because columns are named, or no named columns");
        let found = other.map_or(String::new(), |format| format!("`{format}`"));
        Table("data").need(other.is_none(), &format!("{key}.format"), &expected, found)
    };
    let named = d.claims.claim.is_some() || d.claims.label.is_some();
    check("claims", d.claims.format, DataFormat::Statements, named)?;
    d.choices.iter().try_for_each(|c| {
        let named = [&c.question, &c.a, &c.b, &c.right];
        let named = named.iter().any(|column| column.is_some());
        check("choices", c.format, DataFormat::Choices, named)
    })
}

fn extraction(e: &Extraction, markers: &[String]) -> Result<()> {
    let at = Table("extraction");
    at.positions(&e.positions, PositionsUse::Extraction)?;
    if let Positions::Marker(name) = &e.positions {
        let expected = format!("a marker of prompt.claim, {markers:?}");
        let (fits, found) = (markers.contains(name), format!("`<{name}>`"));
        at.need(fits, "positions", &expected, found)?;
    }
    match (&e.without, &e.method) {
        (Some(Without::File(path)), _) if path.as_os_str() == "letter" => {
            let found = "`letter`, the old name of `answer-token`";
            at.wrong("without", "`answer-token` or a direction file", found)
        }
        (_, ExtractionMethod::Probe(p)) => at.positive("method.probe.l2", p.l2),
        _ => Ok(()),
    }
}

fn selection(s: &Selection) -> Result<()> {
    let at = Table("selection");
    let fits = !s.fractions.is_empty() && s.fractions.iter().all(|f| positive(*f));
    let found = format!("{:?}", s.fractions);
    at.need(fits, "fractions", "positive numbers", found)?;
    at.positive("kl", s.kl)?;
    let found = format!("{} and {}", s.claims, s.neutral);
    let fits = s.claims > 0 && s.neutral > 0;
    at.need(fits, "", "`claims` and `neutral` above 0", found)
}

fn study(s: &Study) -> Result<()> {
    let at = Table("study");
    let fits = !s.seeds.is_empty() && repeated(&s.seeds).is_none();
    let (expected, found) = ("different seeds, at least one", format!("{:?}", s.seeds));
    at.need(fits, "seeds", expected, found)?;
    for (i, claim) in s.claims.iter().enumerate() {
        let key = |key: &str| format!("claims, entry {}, {key}", i + 1);
        for (name, text) in [
            ("name", &claim.name),
            ("left.model", &claim.left.model),
            ("right.model", &claim.right.model),
        ] {
            at.need(!text.is_empty(), &key(name), "words", "an empty text")?;
        }
        let (key, margin) = (key("margin"), claim.margin.value());
        at.need(margin.is_finite(), &key, "a finite number", margin)?;
    }
    Ok(())
}

fn retention(r: &Retention) -> Result<()> {
    let at = Table("retention");
    let fits = !r.types.is_empty() && !r.rounding.is_empty() && !r.modes.is_empty();
    at.need(fits, "", "types, rounding and modes", "an empty list")?;
    let fits = (0. ..=10.).contains(&r.growth);
    at.need(fits, "growth", "a share from 0 to 10", r.growth)
}

fn tuning(t: &Tuning) -> Result<()> {
    let at = Table("tuning");
    at.need(t.rank > 0, "rank", "1 or more", "0")?;
    at.positive("alpha", t.alpha)?;
    at.positive("learning_rate", t.learning_rate)?;
    at.positive("m", t.m)?;
    at.positive("epsilon", t.epsilon)?;
    let empty = t.modes.is_empty() || t.layers.is_empty() || t.target_modules.is_empty();
    let fits = !empty && t.batch > 0 && t.epochs > 0;
    let expected = "at least one mode, layer, target module, prompt a batch and epoch";
    at.need(fits, "", expected, "an empty list or 0")?;
    at.positive("clip", t.clip)?;
    at.positions(&t.positions, PositionsUse::Tuning)?;
    at.once("modes", &t.modes)?;
    at.once("layers", &t.layers)?;
    at.once("representation_layers", &t.representation_layers)?;
    at.once("target_modules", &t.target_modules)?;
    at.not_negative("token_weight", t.token_weight)?;
    at.not_negative("weight_decay", t.weight_decay)?;
    // A row below all updates does not depend on them.
    let lowest = t.layers.iter().min().copied().unwrap_or_default();
    if let Some(l) = t.representation_layers.iter().find(|l| **l < lowest) {
        let expected = format!("layers from {lowest}, the first that is trained");
        return at.wrong("representation_layers", &expected, l);
    }
    let window = t.early_stop.as_ref().map_or(1, |e| e.window);
    at.need(window > 0, "early_stop.window", "1 or more", "0")?;
    (0..t.groups.len()).try_for_each(|g| group(t, g))
}

/// The group with number `g` has modules, which are in no earlier group.
fn group(t: &Tuning, g: usize) -> Result<()> {
    let (group, place) = (&t.groups[g], format!("tuning.groups[{g}]"));
    let at = Table(&place);
    at.positive("learning_rate", group.learning_rate)?;
    at.not_negative("token_weight", group.token_weight)?;
    at.not_negative("representation_weight", group.representation_weight)?;
    let mut empty = true;
    for &layer in &t.layers {
        let held = |kind: &&_| group.holds(layer, **kind);
        for kind in t.target_modules.iter().filter(held) {
            empty = false;
            if t.groups[..g].iter().any(|g| g.holds(layer, *kind)) {
                let found = format!("{} of layer {layer} also", kind.path());
                return at.wrong("", "modules that are in no earlier group", found);
            }
        }
    }
    let expected = "layers and target modules of which some are trained";
    at.need(!empty, "", expected, format!("{group:?}"))
}

fn evaluation(e: &Evaluation) -> Result<()> {
    let at = Table("evaluation");
    let (questions, judge) = (e.open_ended.is_some(), e.judge.is_some());
    let expected = "a judge for evaluation.open_ended";
    at.need(judge || !questions, "judge", expected, "none")?;
    e.judge.iter().try_for_each(judge_settings)?;
    let expected = "open questions for evaluation.judge";
    at.need(questions || !judge, "open_ended", expected, "none")
}

/// What is found wrong is not repeated where it may be a key in the wrong place.
fn judge_settings(j: &JudgeSettings) -> Result<()> {
    let at = Table("evaluation.judge");
    let http = j.endpoint.starts_with("http://") || j.endpoint.starts_with("https://");
    let fits = http && !j.endpoint.contains(['@', '?', '#']);
    let expected = "http:// or https:// and an address without user, query or fragment";
    at.need(fits, "endpoint", expected, "another form")?;
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let variable = |v: &String| !v.is_empty() && v.chars().all(name);
    let fits = j.key_env.as_ref().is_none_or(variable);
    let expected = "the name of an environment variable, in capitals, digits and `_`";
    let found = "something else (is it the key itself?)";
    at.need(fits, "key_env", expected, found)?;
    at.need(j.timeout_s > 0, "timeout_s", "at least 1", "0")?;
    at.need(j.attempts > 0, "attempts", "at least 1", "0")
}

fn search(s: &Search, t: &Tuning) -> Result<()> {
    let at = Table("search");
    for (key, values, least) in [
        ("m", &s.m, "positive numbers"),
        ("token_weight", &s.token_weight, "0 or positive numbers"),
        ("learning_rate", &s.learning_rate, "positive numbers"),
    ] {
        for x in values {
            let fits = positive(*x) || (*x == 0. && least.starts_with('0'));
            at.need(fits, key, least, x)?;
        }
    }
    let empty = s.layers.iter().any(Vec::is_empty);
    at.need(!empty, "layers", "lists of layers", "an empty one")?;
    let fits = s.layers.is_empty() || t.representation_layers.is_empty();
    let expected = "no `tuning.representation_layers` at the same time";
    at.need(fits, "layers", expected, "both")?;
    let fits = s.layers.is_empty() || t.groups.iter().all(|g| g.layers.is_empty());
    let expected = "groups without `layers` at the same time";
    at.need(fits, "layers", expected, "groups of certain layers")?;
    for positions in &s.positions {
        at.positions(positions, PositionsUse::Tuning)?;
        let fits = positions.each().len() <= 1;
        let expected = "one position per value, such as `last:1` or `at:-8`";
        at.need(fits, "positions", expected, format!("`{positions}`"))?;
    }
    let rising = !s.rungs.is_empty() && s.rungs.windows(2).all(|w| w[0] < w[1]);
    let fits = rising && s.rungs.iter().all(|r| positive(*r) && *r <= 1.);
    let expected = "rising shares above 0, at most 1";
    at.need(fits, "rungs", expected, format!("{:?}", s.rungs))?;
    let fits = positive(s.keep) && s.keep < 1.;
    at.need(fits, "keep", "a share between 0 and 1", s.keep)?;
    at.need(s.runs != Some(0), "runs", "1 or more", "0")?;
    at.positive("minutes", s.minutes)
}

fn steering(s: &SteeringSettings) -> Result<()> {
    let at = Table("steering");
    at.need(!s.layers.is_empty(), "layers", "at least one layer", "none")?;
    let (fits, found) = (repeated(&s.layers).is_none(), format!("{:?}", s.layers));
    at.need(fits, "layers", "each layer once", found)?;
    let fits = s.fractions.iter().all(|f| positive(*f));
    let expected = "positive numbers; both signs are tried";
    at.need(fits, "fractions", expected, format!("{:?}", s.fractions))?;
    let doses = [
        ("coeff", s.coeff.is_some()),
        ("total", s.total.is_some()),
        ("fractions", !s.fractions.is_empty()),
    ];
    let given: Vec<&str> = doses.iter().filter(|d| d.1).map(|d| d.0).collect();
    let found = match given.as_slice() {
        [] => "none".to_owned(),
        several => several.join(" and "),
    };
    let expected = "one of `coeff`, `total` and `fractions`";
    at.need(given.len() == 1, "", expected, found)?;
    for (key, dose) in [("coeff", s.coeff), ("total", s.total)] {
        let dose = dose.unwrap_or_default();
        at.need(dose.is_finite(), key, "a finite number", dose)?;
    }
    let fits = s.operator.takes_dose();
    let expected = "`add`, `add-norm-preserving` or `clamp`";
    at.need(fits, "operator", expected, "`ablate`, which has no dose")?;
    // A projection is neither divided by the number of layers nor relative to a norm.
    let fits = s.operator.adds_up() || s.coeff.is_some();
    let (expected, found) = ("`coeff`, the projection to clamp to", given[0]);
    at.need(fits, "", expected, format!("`{found}`"))?;
    at.positions(&s.positions, PositionsUse::Steering)?;
    let fits = s.gate.as_ref().is_none_or(|g| !g.threshold.is_nan());
    at.need(fits, "gate.threshold", "a number", "nan")?;
    let Some(c) = &s.directions else {
        return Ok(());
    };
    let fits = c.scale.is_finite() && c.scale != 0.;
    let expected = "a finite number other than 0";
    at.need(fits, "directions.scale", expected, c.scale)?;
    let files = c.plus.len() + c.minus.len() + c.without.len();
    let fits = c.base.is_some() || c.scale != 1. || files > 0;
    let expected = "`base`, `scale`, `plus`, `minus` or `without`";
    let found = "nothing that changes the directions";
    at.need(fits, "directions", expected, found)
}
