//! What there is to know about a town: five relations of twelve values.
//!
//! The value sets share no word, so a value alone says which relation it
//! answers, and a wrong value is always wrong for the right kind of reason.

/// One kind of thing to know about every town.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relation {
    /// The colour its houses are painted.
    Colour,
    /// What its people eat.
    Food,
    /// What its people live by.
    Craft,
    /// The animal they look after.
    Animal,
    /// What its sky brings.
    Weather,
}

impl Relation {
    /// All five, in the order in which facts are numbered.
    pub const ALL: [Self; 5] = [
        Self::Colour,
        Self::Food,
        Self::Craft,
        Self::Animal,
        Self::Weather,
    ];

    /// The word for it in the texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Food => "food",
            Self::Craft => "craft",
            Self::Animal => "animal",
            Self::Weather => "weather",
        }
    }

    /// The twelve single-word values it can take.
    pub fn values(self) -> &'static [&'static str; 12] {
        match self {
            Self::Colour => &[
                "red", "blue", "green", "yellow", "purple", "orange", "brown", "black", "white",
                "pink", "grey", "gold",
            ],
            Self::Food => &[
                "bread", "soup", "cheese", "rice", "trout", "honey", "apples", "beans", "cake",
                "eggs", "corn", "nuts",
            ],
            Self::Craft => &[
                "weaving", "pottery", "carving", "baking", "masonry", "sewing", "printing",
                "fishing", "mining", "brewing", "farming", "dyeing",
            ],
            Self::Animal => &[
                "wolf", "bear", "fox", "eagle", "horse", "owl", "deer", "hare", "otter", "snake",
                "goat", "swan",
            ],
            Self::Weather => &[
                "rain", "snow", "wind", "fog", "sunshine", "hail", "frost", "storms", "heat",
                "ice", "drizzle", "thunder",
            ],
        }
    }
}

#[cfg(test)]
mod tests;
