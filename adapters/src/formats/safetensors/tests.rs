use super::*;

#[test]
fn what_was_written_is_read_and_a_cut_file_is_refused() -> Result<()> {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("x.safetensors");
    let mut writer = TensorFileWriter::create((&path, &path), ["b", "a"], 0)?;
    let floats: Vec<u8> = [1f32, 2., 3.]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    writer.push("b", Dtype::F32, &[3], &floats)?;
    writer.push("a", Dtype::U8, &[2], &[7, 8])?;
    let length = writer.finish(BTreeMap::new())?;
    let bytes = files::read(&path)?;
    assert_eq!(length as usize, bytes.len());
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("the crate reads it too");
    assert_eq!(all.tensor("a").expect("a").data(), [7, 8]);
    let file = TensorFile::open(&path)?;
    assert_eq!(file.names(), ["b", "a"]);
    assert_eq!(file.tensor("b")?.to_vec1::<f32>()?, [1., 2., 3.]);
    let message = file.tensor("a").expect_err("no float").to_string();
    assert!(
        message.contains("`a`") && message.contains("U8"),
        "{message}"
    );
    for length in [4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).expect("write");
        let message = TensorFile::open(&path).expect_err("cut").to_string();
        assert!(
            message.contains("x.safetensors") && message.contains("truncated"),
            "{message}"
        );
    }
    Ok(())
}
