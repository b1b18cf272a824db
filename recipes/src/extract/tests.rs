//! Planted directions, numbers worked out elsewhere, and the small Llama.

use super::*;
use crate::data::Items;
use crate::recipe::{ExtractionMethod, Pca, PcaRows, Probe};
use crate::toy::{chat, recipe, tiny};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reptune_adapters::steering::exchange::svec;
use reptune_adapters::{Direction, ForwardOptions, KeyValueCache, PrefixTree};

const METHODS: [ExtractionMethod; 4] = [
    ExtractionMethod::MeanDifference,
    ExtractionMethod::Pca(Pca {
        on: PcaRows::Raw,
        component: 0,
    }),
    ExtractionMethod::Pca(Pca {
        on: PcaRows::Differences,
        component: 0,
    }),
    ExtractionMethod::Probe(Probe { l2: 1. }),
];

fn cosine(direction: &Direction, v: &[f64]) -> f64 {
    let dot: f64 = direction
        .unit
        .iter()
        .zip(v)
        .map(|(x, y)| f64::from(*x) * y)
        .sum();
    dot / v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn random(rng: &mut ChaCha8Rng, hidden: usize) -> Vec<f64> {
    (0..hidden).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// 60 pairs `base + noise +- planted`, where rows of the second label also carry `letter`.
struct Planted {
    planted: Vec<f64>,
    letter: Vec<f64>,
    contrast: Contrast,
    letters: Vec<[usize; 2]>,
}

fn planted(hidden: usize, sign: f64, of_letter: f64) -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let unit = |v: Vec<f64>| {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.into_iter().map(|x| x / norm).collect::<Vec<f64>>()
    };
    let direction = unit(random(&mut rng, hidden));
    let letter = unit(random(&mut rng, hidden));
    let base = random(&mut rng, hidden);
    let (mut rows, mut letters) = ([Vec::new(), Vec::new()], Vec::new());
    for pair in 0..60 {
        // The letter goes with the persona two times in three, so it leaks into the mean.
        let label = [usize::from(pair % 3 == 0), usize::from(pair % 3 != 0)];
        for side in [0, 1] {
            let noise = random(&mut rng, hidden);
            let along = if side == 0 { sign } else { -sign };
            let row = (0..hidden).map(|i| {
                let letter = of_letter * letter[i] * label[side] as f64;
                (base[i] + 0.1 * noise[i] + along * direction[i] + letter) as f32
            });
            rows[side].push(row.collect::<Vec<f32>>());
        }
        letters.push(label);
    }
    Planted {
        planted: direction,
        letter,
        contrast: pairs_of(&rows[0], &rows[1]),
        letters,
    }
}

#[test]
fn every_method_finds_a_planted_direction_with_its_sign() {
    // More rows than columns, and fewer.
    for hidden in [24, 150] {
        for sign in [1., -1.] {
            let p = planted(hidden, sign, 0.);
            for method in METHODS {
                let d = method.direction(&p.contrast, None).expect("a direction");
                let cosine = sign * cosine(&d, &p.planted);
                assert!(
                    cosine > 0.99,
                    "{method:?}, H {hidden}, sign {sign}: {cosine}"
                );
                assert_eq!(p.contrast.ordered(&d), 1.);
                let (positive, negative) = p.contrast.cosines(&d);
                assert!(positive > negative);
            }
        }
    }
}

#[test]
fn a_nuisance_is_taken_out_of_every_method() {
    let p = planted(24, 1., 3.);
    let letter = Nuisance::answer_token(&p.contrast, &p.letters).expect("a nuisance");
    // The letter alone: d cancels over the personas.
    let first: Vec<f64> = p.letter.iter().map(|x| -x).collect();
    let found = letter
        .removed(first.clone())
        .map(|v| v.iter().map(|x| x * x).sum::<f64>());
    assert!(found.expect("noise is left").sqrt() < 0.05);
    let rest = letter.removed(p.planted.clone()).expect("a direction");
    let plain = METHODS[0]
        .direction(&p.contrast, None)
        .expect("a direction");
    assert!(cosine(&plain, &p.planted) < 0.95, "the letter leaks in");
    for method in [METHODS[0].clone(), METHODS[3].clone()] {
        let d = method
            .direction(&p.contrast, Some(&letter))
            .expect("a direction");
        let off: Vec<f64> = letter
            .removed(d.unit.iter().map(|x| f64::from(*x)).collect())
            .expect("it");
        let along: f64 = d
            .unit
            .iter()
            .zip(&off)
            .map(|(x, y)| (f64::from(*x) - y).powi(2))
            .sum();
        assert!(along.sqrt() < 1e-6, "{method:?}: {along:e}");
        assert!(
            cosine(&d, &rest) > 0.99,
            "{method:?}: {}",
            cosine(&d, &rest)
        );
    }
    let itself = Nuisance::new(&first).expect("a nuisance").removed(first);
    let message = itself.expect_err("nothing is left").to_string();
    assert!(message.contains("more than the nuisance"), "{message}");
}

fn contrast(positive: &[[f32; 2]], negative: &[[f32; 2]]) -> Contrast {
    let rows = |rows: &[[f32; 2]]| rows.iter().map(|r| r.to_vec()).collect::<Vec<_>>();
    pairs_of(&rows(positive), &rows(negative))
}

fn pairs_of(positive: &[Vec<f32>], negative: &[Vec<f32>]) -> Contrast {
    let mut contrast = Contrast::empty(positive[0].len());
    let pairs = positive.iter().zip(negative);
    pairs.for_each(|(p, n)| contrast.push(p, n));
    contrast
}

fn close(d: &Direction, unit: [f64; 2], norm: f64) {
    for (x, y) in d.unit.iter().zip(unit) {
        assert!((f64::from(*x) - y).abs() < 1e-6, "{d:?} {unit:?}");
    }
    // A probe has settled when its conditions hold to 1e-9.
    assert!((d.norm / norm - 1.).abs() < 1e-8, "{d:?} {norm}");
}

#[test]
fn components_are_those_worked_out_by_hand() {
    // D = [[3, 1], [1, 2], [2, -1]]; D^T D = [[14, 3], [3, 6]] has eigenvalues 15 and 5
    // with eigenvectors (3, 1) and (1, -3): numpy.linalg.eigh(D.T @ D / 3).
    let c = contrast(&[[3., 1.], [1., 2.], [2., -1.]], &[[0., 0.]; 3]);
    let pca = |on, component| ExtractionMethod::Pca(Pca { on, component }).direction(&c, None);
    let tenth = 10f64.sqrt().recip();
    let first = pca(PcaRows::Differences, 0).expect("a component");
    close(&first, [3. * tenth, tenth], 5f64.sqrt());
    // (1, -3) projects the pairs to 0, -5 and 5.
    let tie = pca(PcaRows::Differences, 1).expect_err("a tie").to_string();
    assert!(tie.contains("1 higher and 1 lower of 3"), "{tie}");
    let none = pca(PcaRows::Differences, 2)
        .expect_err("no third")
        .to_string();
    assert!(none.contains("below 2, found 2"), "{none}");
    // Rows about their mean (1, 1/3): X^T X / 6 = [[8, 1], [1, 16/3]] / 6, numpy.cov(X.T, bias=True).
    let (mean, half) = ((8. + 16. / 3.) / 2., (4f64 / 3.).hypot(1.));
    let first = pca(PcaRows::Raw, 0).expect("a component");
    let (x, y): (f64, f64) = (mean + half - 16. / 3., 1.);
    let unit = [x / x.hypot(y), y / x.hypot(y)];
    close(&first, unit, ((mean + half) / 6.).sqrt());
}

#[test]
fn a_probe_is_that_of_newton_in_the_plane() {
    // Rows centred and divided by s = 1.2583057392 (root of their mean square length);
    // Newton on (w, b) with the Hessian Z^T C Z + l2 diag(1, 1, 0), 100 steps. The same
    // as sklearn LogisticRegression(C=1/l2) on (X - mean) / s, its coef_ / s.
    let c = contrast(
        &[[1., 0.], [2., 1.], [0., 1.]],
        &[[-1., 0.], [0., -1.], [1., -1.]],
    );
    let probes = [
        (
            1.,
            [0.532_259_583_853, 0.846_581_204_255],
            0.896_788_705_833,
        ),
        (
            0.1,
            [0.506_664_382_747, 0.862_143_377_435],
            2.793_690_892_044,
        ),
    ];
    for (l2, unit, norm) in probes {
        let d = ExtractionMethod::Probe(Probe { l2 }).direction(&c, None);
        close(&d.expect("a direction"), unit, norm);
    }
}

#[test]
fn rows_that_do_not_differ_are_refused() {
    let same = contrast(&[[1., 1.]], &[[1., 1.]]);
    let flat = METHODS[3]
        .direction(&same, None)
        .expect_err("no spread")
        .to_string();
    assert!(flat.contains("rows that differ"), "{flat}");
}

fn captured(extraction: &str) -> CapturedPairs {
    let recipe = recipe(extraction);
    let items = Items::read(&recipe).expect("items");
    CapturedPairs::of(&tiny(), &chat(), &recipe, &items.train, &mut |_, _| {}).expect("rows")
}

#[test]
fn rows_are_those_of_prompts_run_alone() {
    let recipe = recipe("pairs = 20\npositions = \"at:-4\"");
    let (model, chat) = (tiny(), chat());
    let items = Items::read(&recipe).expect("items");
    let found = extract(&model, &chat, &recipe, &items.train, &mut |_, _| {}).expect("directions");
    let pairs = captured_pairs::pairs(&chat, &recipe, &items.train).expect("pairs");
    let row = |side: &captured_pairs::Side| -> Vec<f32> {
        let (tree, rows) = PrefixTree::pack(&[&side.ids]);
        let request = ForwardOptions {
            capture: &[2],
            ..ForwardOptions::default()
        };
        let pass = model
            .forward(&tree, &mut KeyValueCache::none(), &request)
            .expect("a pass");
        let rows_of: Vec<Vec<f32>> = pass.residuals[&2].to_vec2().expect("rows");
        rows_of[rows[0][side.end - 4] as usize].clone()
    };
    let mut sum = vec![0f64; model.spec().hidden];
    for pair in &pairs {
        let (p, n) = (row(&pair[0]), row(&pair[1]));
        for (s, (p, n)) in sum.iter_mut().zip(p.iter().zip(&n)) {
            *s += f64::from(p - n) / pairs.len() as f64;
        }
    }
    let direction = found.directions.layer(2).expect("layer 2");
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((direction.norm / norm - 1.).abs() < 1e-4, "{norm}");
    assert!(cosine(direction, &sum) > 1. - 1e-8);
    let p = &found.directions.provenance;
    assert_eq!(p.method, "mean difference, same-answer pairs");
    assert_eq!(p.rows, "at:-4");
    assert_eq!((p.pairs, p.pairs_captured), (20, 20));
}

#[test]
fn positions_are_captured_together_as_alone() {
    let last = captured("pairs = 6\npositions = \"last:3\"");
    for offset in 0..3 {
        let alone = captured(&format!("pairs = 6\npositions = \"at:-{}\"", offset + 1));
        assert_eq!(last.contrast(offset, 1).ok(), alone.contrast(0, 1).ok());
    }
    let answer = captured("pairs = 6\npositions = \"answer\"");
    let window = captured("pairs = 6\npositions = \"window:-2..1\"");
    assert_eq!(answer.contrast(0, 3).ok(), window.contrast(0, 3).ok());
    assert_eq!(last.contrast(2, 3).ok(), window.contrast(3, 3).ok());
    let listed = captured("pairs = 6\npositions = \"at:0,-3\"");
    assert_eq!(last.contrast(2, 3).ok(), listed.contrast(1, 3).ok());
    let mean = captured("pairs = 6\npositions = \"mean:-2..0\"");
    let of = |place: usize| {
        last.contrast(place, 1)
            .expect("rows")
            .positive()
            .next()
            .expect("one")[5]
    };
    let expected = (f64::from(of(0)) + f64::from(of(1)) + f64::from(of(2))) / 3.;
    let found = mean
        .contrast(0, 1)
        .expect("rows")
        .positive()
        .next()
        .expect("one")[5];
    assert_eq!(found, expected as f32);
}

#[test]
fn a_marker_names_the_token_before_it() {
    // Tokens of the small Llama are bytes: what follows the marker is as many tokens.
    let after = " A) True B) False\n<<assistant>> ".len();
    let marked = captured("pairs = 6\npositions = \"<end>\"");
    let counted = captured(&format!("pairs = 6\npositions = \"at:-{}\"", after + 1));
    assert_eq!(marked.contrast(0, 2).ok(), counted.contrast(0, 2).ok());
    assert_eq!(marked.positions[0].to_string(), "<end>");
}

#[test]
fn several_positions_are_not_one_direction_set() {
    let recipe = recipe("pairs = 7\npositions = \"last:2\"\nmethod = { pca = { on = \"raw\" } }");
    let items = Items::read(&recipe).expect("items");
    let found = extract(&tiny(), &chat(), &recipe, &items.train, &mut |_, _| {});
    let message = found.expect_err("two positions").to_string();
    assert!(message.contains("2 positions"), "{message}");
    let captured = captured("pairs = 7\npositions = \"last:2\"");
    let found = find(tiny().spec(), &recipe, &captured).expect("directions");
    let p = &found[1].directions.provenance;
    assert_eq!(p.rows, "at:-2");
    assert_eq!(p.method, "principal component 0 of rows, same-answer pairs");
}

#[test]
fn the_answer_token_is_taken_out_of_the_directions_of_a_model() {
    let extraction = "pairs = 20\npairing = \"same-claim\"\npositions = \"answer\"";
    let captured = captured(extraction);
    let without = recipe(&format!("{extraction}\nwithout = \"answer-token\""));
    let found = find(tiny().spec(), &without, &captured).expect("directions");
    let nuisance = Nuisance::answer_token(
        captured.contrast(0, 1).expect("rows"),
        &captured.pairs.answers,
    );
    let d = found[0].directions.layer(1).expect("a direction");
    let v: Vec<f64> = d.unit.iter().map(|x| f64::from(*x)).collect();
    let off = nuisance
        .expect("a nuisance")
        .removed(v.clone())
        .expect("it");
    let along: f64 = v.iter().zip(&off).map(|(x, y)| (x - y).powi(2)).sum();
    assert!(along.sqrt() < 1e-6, "{along:e}");
    // The same from a file, of reptune or of another program.
    let [own, other] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
    found[0].directions.save(own.path()).expect("saved");
    svec::write(other.path(), &found[0].directions, &[0, 1, 2, 3]).expect("saved");
    for file in [own, other] {
        let file = file.path().display();
        let itself = recipe(&format!("{extraction}\nwithout = '{file}'"));
        let again = find(tiny().spec(), &itself, &captured).expect("directions");
        let again = again[0].directions.layer(1).expect("a direction");
        assert!(cosine(again, &v).abs() < 1e-6);
    }
}

#[test]
fn sums_give_the_directions_of_kept_pairs_in_memory_that_does_not_grow() {
    let bytes = |sums: &PairSums| std::mem::size_of_val(sums) + 8 * sums.mean_difference().len();
    let rows = |pairs: usize| {
        let mut sums = PairSums::new(24);
        let p = planted(24, 1., 0.).contrast;
        for (positive, negative) in p.positive().zip(p.negative()).take(pairs) {
            sums.add(positive, negative);
        }
        bytes(&sums)
    };
    assert_eq!(rows(1), rows(60));
    for without in ["", "without = \"answer-token\"", "method = { probe = {} }"] {
        let recipe = recipe(&format!(
            "pairs = 12\npairing = \"same-claim\"\npositions = \"window:-1..1\"\n{without}"
        ));
        let items = Items::read(&recipe).expect("items");
        let (model, chat) = (tiny(), chat());
        let captured = CapturedPairs::of(&model, &chat, &recipe, &items.train, &mut |_, _| {});
        let kept = find(model.spec(), &recipe, &captured.expect("rows")).expect("directions");
        let each = extract_each(&model, &chat, &recipe, &items.train, &mut |_, _| {});
        let (each, pairs) = each.expect("directions");
        assert_eq!(pairs, [12, 12]);
        assert_eq!(each.len(), 3);
        for (summed, kept) in each.iter().zip(&kept) {
            assert_eq!(summed.directions, kept.directions, "{without}");
            assert_eq!(summed.ordered.is_empty(), without.is_empty());
        }
    }
}
