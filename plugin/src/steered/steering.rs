//! What is added to the residual stream, as a user of mistral.rs writes it.

use crate::error::Result;
use reptune_adapters::{
    DirectionSet, Dose, Error, HookPoint, Intervention, ModelSpec, Operator, files, open_directions,
};
use std::path::{Path, PathBuf};

/// Directions from files, each with layers and a dose.
///
/// ```no_run
/// # fn main() -> reptune::Result<()> {
/// use reptune::Steering;
/// let steering = Steering::from_file("honesty.safetensors")?
///     .layers(11..=17)
///     .total(19.0)
///     .and(Steering::from_file("calm.safetensors")?.layers([20]).fraction(0.3));
/// # Ok(())
/// # }
/// ```
///
/// Layer i is the output of block i, counted from 0. Each layer gets the coefficient;
/// [`Steering::total`] is divided over the layers. Several files add up.
#[derive(Debug, Clone)]
pub struct Steering {
    /// The files and how they are used.
    pub parts: Vec<SteeringFile>,
}

/// One file and how it is used.
#[derive(Debug, Clone)]
pub struct SteeringFile {
    /// The file.
    pub file: PathBuf,
    /// SHA-256 of the file.
    pub hash: String,
    /// The layers.
    pub layers: Vec<usize>,
    /// Where in the blocks.
    pub point: HookPoint,
    set: DirectionSet,
    dose: Option<Dose>,
}

impl Steering {
    /// The directions of a file, as `reptune extract` writes them, or of another program's:
    /// a GGUF control vector or a `.svec`.
    ///
    /// # Errors
    /// When the file cannot be read, or its hash, shapes or layer convention are wrong.
    pub fn from_file(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref().to_owned();
        let part = SteeringFile {
            set: open_directions(&file)?,
            hash: files::sha256([files::read(&file)?.as_slice()]),
            file,
            layers: Vec::new(),
            dose: None,
            point: HookPoint::ResidPost,
        };
        Ok(Self { parts: vec![part] })
    }

    /// Where the directions of the file named last are added: `11..=17`, or `[3, 5]`.
    pub fn layers(self, layers: impl IntoIterator<Item = usize>) -> Self {
        let mut layers: Vec<usize> = layers.into_iter().collect();
        layers.sort_unstable();
        layers.dedup();
        self.last(|part| part.layers = layers)
    }

    /// The coefficient of the unit direction at each of the layers.
    pub fn coeff(self, coeff: f64) -> Self {
        self.dose(Dose::Coeff(coeff))
    }

    /// Instead of a coeff: a total that is divided equally over the layers.
    pub fn total(self, total: f64) -> Self {
        self.dose(Dose::Total(total))
    }

    /// Instead of a coeff: a signed fraction of the mean residual norm at these layers.
    pub fn fraction(self, fraction: f64) -> Self {
        self.dose(Dose::Fraction(fraction))
    }

    /// Instead of a coeff: a signed multiplier of the vectors as they were stored, before
    /// normalising, at every layer; llama.cpp applies control vectors so.
    pub fn strength(self, strength: f64) -> Self {
        self.dose(Dose::Strength(strength))
    }

    /// How much of them.
    pub fn dose(self, dose: Dose) -> Self {
        self.last(|part| part.dose = Some(dose))
    }

    /// At this hook point instead of `resid_post`.
    pub fn at(self, point: HookPoint) -> Self {
        self.last(|part| part.point = point)
    }

    /// This and another: both are added.
    pub fn and(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// The same with other doses, one for each file.
    ///
    /// # Errors
    /// When there are more or fewer doses than files, or one is not finite.
    pub fn with_doses(mut self, doses: &[Dose]) -> Result<Self> {
        let n = self.parts.len();
        if doses.len() != n || doses.iter().any(|d| !d.amount().is_finite()) {
            let expected = format!("{n} with a finite number, one for each direction file");
            let (found, hint) = (format!("{doses:?}"), "give them in the order of the files");
            return Err(Error::value("doses", expected, found, hint).into());
        }
        for (part, dose) in self.parts.iter_mut().zip(doses) {
            part.dose = Some(*dose);
        }
        Ok(self)
    }

    /// What this does to a model, as additions at every token.
    ///
    /// # Errors
    /// When a file was made for another model or lacks a layer, or layers or a dose
    /// were not named.
    pub fn interventions(&self, spec: &ModelSpec) -> Result<Vec<Intervention>> {
        self.parts.iter().map(|p| p.intervention(spec)).collect()
    }

    fn last(mut self, change: impl FnOnce(&mut SteeringFile)) -> Self {
        if let Some(part) = self.parts.last_mut() {
            change(part);
        }
        self
    }
}

impl SteeringFile {
    /// How much of the directions; a fraction as the total that it comes to.
    ///
    /// # Errors
    /// When no dose was named, or a fraction has no norm to be a fraction of.
    pub fn dose(&self) -> Result<Dose> {
        match self.dose {
            Some(Dose::Fraction(fraction)) => {
                let each = self.set.natural_coeff(&self.layers, fraction)?;
                Ok(Dose::Total(each * self.layers.len() as f64))
            }
            Some(dose) => Ok(dose),
            None => Err(self.wrong("dose", "a coeff or a fraction", "neither", "name one")),
        }
    }

    fn intervention(&self, spec: &ModelSpec) -> Result<Intervention> {
        self.set.check_model(&self.file, spec)?;
        let held = self.set.layers.keys().copied();
        let held: Vec<usize> = held.filter(|layer| *layer < spec.layers).collect();
        let missing = self.layers.iter().find(|l| !held.contains(l));
        if self.layers.is_empty() || missing.is_some() {
            let found = missing.map_or("none".to_owned(), |l| format!("layer {l}"));
            let expected = format!("some of the layers of this file, {held:?}");
            return Err(self.wrong("layers", &expected, &found, "name others"));
        }
        let dose = self.dose()?;
        if !dose.amount().is_finite() {
            let found = dose.amount().to_string();
            return Err(self.wrong("coeff", "a finite number", &found, "for example 19.0"));
        }
        let addition = Intervention::new(&self.set, &self.layers, dose, Operator::Add)?;
        Ok(addition.at(self.point))
    }

    fn wrong(&self, what: &str, expected: &str, found: &str, hint: &str) -> crate::Error {
        let what = format!("{}: {what}", self.file.display());
        Error::value(what, expected, found, hint).into()
    }
}
