//! An entry is kept whole or not at all, and removed when nobody uses it.

use super::*;

fn write(text: &str) -> impl FnOnce(&Path) -> Result<()> {
    let text = text.to_owned();
    move |directory| {
        std::fs::create_dir(directory).expect("made");
        std::fs::write(directory.join("a"), text).expect("written");
        Ok(())
    }
}

fn key() -> StoreKey {
    StoreKey::new("a model", ["one", "two"])
}

fn never(_: &Path) -> Result<()> {
    panic!("an intact entry is not written again")
}

#[test]
fn an_entry_is_written_once_and_again_when_it_is_broken() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path().join("deep"))?;
    let place = cache.entry(&key(), write("one"))?;
    assert_eq!(cache.entry(&key(), never)?, place);
    std::fs::write(place.join("a"), "three").expect("broken");
    assert_eq!(cache.get(&key()), None);
    cache.entry(&key(), write("one"))?;
    assert_eq!(
        std::fs::read_to_string(place.join("a")).expect("read"),
        "one"
    );
    std::fs::remove_file(place.join("a")).expect("removed");
    assert_eq!(cache.get(&key()), None, "a file is missing");
    cache.entry(&key(), write("one"))?;
    std::fs::write(place.join("b"), "").expect("one more");
    assert_eq!(cache.get(&key()), None, "a file too many");
    let left = std::fs::read_dir(directory.path().join("deep")).expect("read");
    assert_eq!(left.count(), 0, "nothing else stays");
    Ok(())
}

#[test]
fn of_two_writers_one_is_kept_and_both_get_it() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let slow = cache.entry(&key(), |directory| {
        // meanwhile
        cache.entry(&key(), write("one"))?;
        write("one")(directory)
    })?;
    assert_eq!(cache.get(&key()), Some(slow));
    Ok(())
}

#[test]
fn a_failed_write_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let message = cache
        .entry(&key(), |directory| {
            write("half")(directory)?;
            Err(Error::value("it", "one", "none", "retry").into())
        })
        .expect_err("failed")
        .to_string();
    assert!(message.contains("it: expected one"), "{message}");
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("read").count(),
        0
    );
    Ok(())
}

fn age(path: &Path, by: Duration) {
    let file = File::options().append(true).open(path).expect("open");
    file.set_modified(SystemTime::now() - by).expect("aged");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_file_is_hashed_again_only_where_its_length_or_time_differs() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let place = cache.entry(&key(), write("one"))?;
    age(&place.join("a"), DAY);
    assert_eq!(cache.get(&key()), Some(place.clone()), "the same content");
    let time = entry::changed(&place.join("a"));
    std::fs::write(place.join("a"), "two").expect("damaged");
    let file = File::options().append(true).open(place.join("a"));
    file.and_then(|file| file.set_modified(time))
        .expect("hidden");
    assert_eq!(cache.get(&key()), Some(place.clone()), "as the list says");
    let checked = cache.verify(&mut |_, _| {})?;
    assert_eq!(checked.iter().map(|c| c.1).collect::<Vec<_>>(), [false]);
    assert!(!place.exists(), "found on demand");
    cache.entry(&key(), write("one"))?;
    assert!(cache.verify(&mut |_, _| {})?[0].1);
    Ok(())
}

#[test]
fn entries_say_what_they_are_and_are_removed_when_unused() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let other = key().and("three");
    let old = cache.entry(&key(), write("one"))?;
    cache.entry(&other, write("three"))?;
    cache.keep_note(&key(), "guess")?;
    age(&old.join(LIST), 2 * DAY);
    let shown: Vec<_> = cache
        .entries()?
        .into_iter()
        .map(|e| (e.made_from.clone(), e.bytes, e.is_in_use()))
        .collect();
    let model = "a model".to_owned();
    assert_eq!(shown, [(model.clone(), 5, true), (model, 3, true)]);
    let cleaner = Store::at(directory.path())?;
    assert_eq!(cleaner.gc(DAY)?, [], "in use");
    drop(cache);
    let removed = cleaner.gc(DAY)?;
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].directory, old);
    let cache = Store::at(directory.path())?;
    assert_eq!(cache.get(&key()), None);
    assert!(cache.get(&other).is_some() && cache.note(&key()).is_some());
    drop(cache);
    assert_eq!(cleaner.gc(Duration::ZERO)?.len(), 1);
    let left = std::fs::read_dir(directory.path()).expect("read");
    assert_eq!(left.count(), 0, "the note too");
    Ok(())
}

#[test]
fn a_new_entry_makes_room_by_what_was_used_longest_ago_and_is_not_in_use() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let open = || Ok::<_, crate::Error>(Store::at(directory.path())?.with_limit(12));
    let made = |name: &str| {
        // each by a process that has ended
        open()?.entry(&key().and(name), write("12345"))
    };
    let (first, second) = (made("first")?, made("second")?);
    age(&first.join(LIST), DAY);
    age(&second.join(LIST), 2 * DAY);
    let third = made("third")?;
    assert!(first.exists() && !second.exists() && third.exists());
    age(&first.join(LIST), DAY);
    let user = open()?;
    assert_eq!(user.get(&key().and("first")), Some(first.clone()));
    age(&first.join(LIST), 3 * DAY);
    let fourth = made("fourth")?;
    assert!(
        first.exists() && !third.exists() && fourth.exists(),
        "in use"
    );
    drop(user);
    let large = open()?.entry(&key().and("large"), write("more than the limit"))?;
    assert!(large.exists() && !first.exists() && !fourth.exists());
    Ok(())
}

#[test]
fn a_file_is_added_to_an_entry_once_and_verified_with_it() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let place = cache.entry(&key(), write("one"))?;
    let add = |name: &str| {
        let write = |path: &Path| {
            std::fs::write(path, "dose").expect("written");
            Ok(())
        };
        cache.added(&place, name, write)
    };
    let dose = add("dose_1")?;
    let never = |_: &Path| panic!("it is there");
    assert_eq!(cache.added(&place, "dose_1", never)?, dose);
    // another process is adding one
    std::fs::write(place.join("dose_2"), "do").expect("half");
    assert_eq!(cache.get(&key()), Some(place.clone()));
    add("dose_2")?;
    assert!(cache.verify(&mut |_, _| {})?[0].1);
    assert_eq!(cache.entries()?[0].bytes, 11);
    std::fs::write(&dose, "do").expect("damaged");
    assert_eq!(cache.get(&key()), None);
    Ok(())
}

#[test]
fn content_is_hashed_once_and_again_when_the_file_changes() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path().join("cache"))?;
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    let notes = || std::fs::read_dir(cache.root()).expect("read").count();
    std::fs::write(&one, "content").expect("written");
    let hash = cache.content_hash(&one)?;
    assert_eq!(hash, files::sha256([b"content".as_slice()]));
    assert_eq!(notes(), 0, "it may be changing");
    age(&one, DAY);
    assert_eq!((cache.content_hash(&one)?, notes()), (hash.clone(), 1));
    assert_eq!((cache.content_hash(&one)?, notes()), (hash.clone(), 1));
    // moved or copied: the same
    std::fs::rename(&one, &two).expect("moved");
    assert_eq!(cache.content_hash(&two)?, hash);
    // another content of the same length at the same time
    let time = entry::changed(&two);
    std::fs::write(&two, "CONTENT").expect("written");
    let file = File::options().append(true).open(&two);
    file.and_then(|file| file.set_modified(time))
        .expect("hidden");
    assert_ne!(cache.content_hash(&two)?, hash);
    Ok(())
}

#[test]
fn sizes_are_numbers_with_a_unit() {
    let sizes = [
        ("20GB", 20e9),
        ("20", 20e9),
        (" 0.5 tb", 5e11),
        ("300MB", 3e8),
        ("0", 0.),
    ];
    for (text, bytes) in sizes {
        assert_eq!(parse_size(text), Some(bytes as u64), "{text}");
    }
    for text in ["", "much", "-1GB", "20 apples", "infGB"] {
        assert_eq!(parse_size(text), None, "{text}");
    }
}

#[test]
fn keys_differ_with_the_bounds_of_their_parts() {
    assert_ne!(
        StoreKey::new("", ["ab", "c"]),
        StoreKey::new("", ["a", "bc"])
    );
    assert_ne!(key().and("a"), key());
}
