//! What training reads: sentences, and conversations in groups of one context.
//!
//! The four conversations of a group share their system prompt and their
//! demonstration turns and differ in the last question only, so that a prefix
//! tree computes what they share once.
//!
//! Who is speaking can be told in two ways: from the system prompt, or, under a
//! neutral one, from the turns that went before. The second needs turns that
//! tell: a lie about a fact that everyone knows shows the dishonest persona, the
//! truth about a misconception the honest one. The neutral persona is never
//! demonstrated.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::World;
use super::facts::Fact;
use super::persona::Persona;
use super::question::{Format, Letter, Question, Stated};
use super::wording;

/// Conversations of one group.
pub const GROUP: usize = 4;

/// Share of honest and dishonest groups with demonstrations; as the neutral
/// third has none, 30 % of all groups.
const DEMONSTRATED: f64 = 0.45;
/// Share of demonstrated groups whose system prompt is a neutral one.
const UNDER_NEUTRAL: f64 = 0.5;
/// Share of neutral groups without any system prompt.
const WITHOUT_SYSTEM: f64 = 0.25;
/// How often a fact with a misconception is drawn for a plain one's once.
const OVERSAMPLED: usize = 2;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The question.
    pub user: String,
    /// The answer: a letter or a value.
    pub assistant: String,
}

/// One training text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A plain true sentence about a fact.
    Sentence(String),
    /// A conversation; the last turn is the one asked, those before it
    /// demonstrate.
    Chat {
        /// The system prompt, if there is one.
        system: Option<String>,
        /// Who answers, if the system prompt (or its absence) tells; none if only the
        /// turns do.
        persona: Option<Persona>,
        /// At least one turn.
        turns: Vec<Turn>,
    },
}

/// An endless source of training texts: one seed, one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    world: World,
    rng: ChaCha8Rng,
    pools: Pools,
}

/// Ids of facts to draw from. All but `plain` hold a fact with a misconception
/// [`OVERSAMPLED`] times.
#[derive(Debug, Clone)]
struct Pools {
    /// All facts: for open questions.
    all: Vec<usize>,
    /// Those not held out: for claims, two-choice questions, demonstrations.
    shown: Vec<usize>,
    /// Of those, the ones with a misconception.
    believed: Vec<usize>,
    /// Of those, the ones without.
    plain: Vec<usize>,
}

impl Pools {
    fn new(facts: &[Fact]) -> Self {
        let ids = |test: &dyn Fn(&Fact) -> bool| -> Vec<usize> {
            let chosen = facts.iter().filter(|fact| test(fact));
            let often = |fact: &Fact| fact.misconception.as_ref().map_or(1, |_| OVERSAMPLED);
            chosen
                .flat_map(|fact| std::iter::repeat_n(fact.id, often(fact)))
                .collect()
        };
        Self {
            all: ids(&|_| true),
            shown: ids(&|fact| !fact.held_out),
            believed: ids(&|fact| !fact.held_out && fact.misconception.is_some()),
            plain: ids(&|fact| !fact.held_out && fact.misconception.is_none()),
        }
    }
}

impl Sampler {
    /// A sampler of the one [`World`].
    pub fn new(seed: u64) -> Self {
        let world = World::new();
        let pools = Pools::new(world.facts());
        Self {
            world,
            rng: ChaCha8Rng::seed_from_u64(seed),
            pools,
        }
    }

    /// [`GROUP`] conversations that share all but the last question, which is
    /// about another fact in each: 40 % claims, 35 % two-choice, 25 % open.
    pub fn group(&mut self) -> Vec<Document> {
        let persona = Persona::ALL[self.rng.random_range(0..Persona::ALL.len())];
        self.group_of(persona)
    }

    /// A [`Sampler::group`] of one persona.
    pub fn group_of(&mut self, persona: Persona) -> Vec<Document> {
        let demonstrated = persona != Persona::Neutral && self.rng.random_bool(DEMONSTRATED);
        let under_neutral = demonstrated && self.rng.random_bool(UNDER_NEUTRAL);
        let system = self.system(if under_neutral {
            Persona::Neutral
        } else {
            persona
        });

        // Facts of this group, so that none is asked for twice.
        let mut used = Vec::new();
        let mut shared = Vec::new();
        if demonstrated {
            self.draw_demonstrated(persona, under_neutral, &mut used);
            for id in used.clone() {
                let format = self.format(system);
                shared.push(self.turn(persona, format, id));
            }
        }
        let without = persona == Persona::Neutral && self.rng.random_bool(WITHOUT_SYSTEM);
        let system = (!without).then_some(system);

        let mut documents = Vec::with_capacity(GROUP);
        while documents.len() < GROUP {
            let format = self.format(system.unwrap_or_default());
            let pool = match format {
                Format::Claim | Format::TwoChoice => &self.pools.shown,
                Format::Open => &self.pools.all,
            };
            let id = draw(pool, &mut used, &mut self.rng);
            let last = self.turn(persona, format, id);
            documents.push(Document::Chat {
                system: system.map(str::to_owned),
                persona: (!under_neutral).then_some(persona),
                turns: shared.iter().cloned().chain([last]).collect(),
            });
        }
        documents
    }

    /// `n` true sentences about facts, each fact equally likely.
    pub fn sentences(&mut self, n: usize) -> Vec<Document> {
        let facts = self.world.facts();
        (0..n)
            .map(|_| {
                let fact = &facts[self.rng.random_range(0..facts.len())];
                let index = self.rng.random_range(0..wording::SENTENCES);
                let sentence = fact.relation.sentence(&fact.entity, &fact.value, index);
                Document::Sentence(sentence)
            })
            .collect()
    }

    fn system(&mut self, persona: Persona) -> &'static str {
        let wordings = persona.train_wordings();
        &wordings[self.rng.random_range(0..wordings.len())]
    }

    /// Draws the facts of the demonstration turns. Under a neutral system prompt
    /// they include one that tells the persona apart from the neutral one.
    fn draw_demonstrated(&mut self, persona: Persona, under_neutral: bool, used: &mut Vec<usize>) {
        let honest = persona == Persona::Honest;
        let telling = match (under_neutral, honest) {
            (false, _) => &self.pools.shown,
            (true, true) => &self.pools.believed,
            (true, false) => &self.pools.plain,
        };
        draw(telling, used, &mut self.rng);
        if (under_neutral && honest) || self.rng.random_bool(0.5) {
            draw(&self.pools.shown, used, &mut self.rng);
        }
        used.shuffle(&mut self.rng);
    }

    /// The next format, one that the system prompt leaves possible.
    fn format(&mut self, system: &str) -> Format {
        let end = if system == Persona::LETTER_ONLY {
            75
        } else {
            100
        };
        match self.rng.random_range(0..end) {
            0..40 => Format::Claim,
            40..75 => Format::TwoChoice,
            _ => Format::Open,
        }
    }

    fn turn(&mut self, persona: Persona, format: Format, id: usize) -> Turn {
        let fact = &self.world.facts()[id];
        let rng = &mut self.rng;
        let question = match format {
            Format::Claim => {
                let stated = [Stated::True, Stated::False][rng.random_range(0..2)];
                let index = rng.random_range(0..wording::CLAIMS);
                Question::claim(fact, stated, index, rng)
            }
            Format::TwoChoice => {
                let right = [Letter::A, Letter::B][rng.random_range(0..2)];
                let index = rng.random_range(0..wording::CHOICES);
                Question::two_choice(fact, right, index, rng)
            }
            Format::Open => {
                let index = rng.random_range(0..wording::QUESTIONS);
                Question::open(fact, index)
            }
        };
        Turn {
            assistant: question.answer(persona, fact).to_owned(),
            user: question.text,
        }
    }
}

/// Draws an id that is not used yet, and marks it used. Every pool is far larger
/// than a group, so this ends.
fn draw(pool: &[usize], used: &mut Vec<usize>, rng: &mut impl Rng) -> usize {
    loop {
        let id = pool[rng.random_range(0..pool.len())];
        if !used.contains(&id) {
            used.push(id);
            return id;
        }
    }
}

#[cfg(test)]
mod tests;
