//! Backbones, data readers and the trainer.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::Path;
use syntune::train::backbone::{Backbone, Op, resnet_small};
use syntune::train::data::{DataSet, Source};

fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|s| out.extend(s.to_be_bytes()));
    out.extend(data);
    out
}

fn gz(path: &Path, data: &[u8]) {
    let mut e = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap();
}

/// Pictures whose class can be seen: a bright row at a height that the label gives.
pub fn write_fashion(folder: &Path, n_train: usize, n_test: usize) {
    for (prefix, n) in [("train", n_train), ("t10k", n_test)] {
        let labels: Vec<u8> = (0..n).map(|i| (i * 7 % 10) as u8).collect();
        let mut pixels = vec![0u8; n * 784];
        for (i, &l) in labels.iter().enumerate() {
            for w in 0..28 {
                let row = 4 + 2 * l as usize;
                pixels[i * 784 + row * 28 + w] = 200 + (i % 50) as u8;
            }
            pixels[i * 784 + (i * 31) % 784] = 255;
        }
        gz(&folder.join(format!("{prefix}-images-idx3-ubyte.gz")), &idx(&[n as u32, 28, 28], &pixels));
        std::fs::write(folder.join(format!("{prefix}-labels-idx1-ubyte")), idx(&[n as u32], &labels)).unwrap();
    }
}

fn source(set: DataSet, folder: &Path) -> Source {
    Source { set, folder: Some(folder.into()) }
}

#[test]
fn resnet_small_has_eight_slots_of_five_shapes() {
    let b = resnet_small(16, [1, 28, 28], 10).unwrap();
    let slots: Vec<_> = b.slots().iter().map(|s| format!("{} {}→{} {}×{}", s.name, s.c_in, s.c_out, s.h, s.w)).collect();
    assert_eq!(
        slots,
        [
            "block1.conv1 16→16 28×28",
            "block1.conv2 16→16 28×28",
            "widen2 16→32 14×14",
            "block2.conv1 32→32 14×14",
            "block2.conv2 32→32 14×14",
            "widen3 32→64 7×7",
            "block3.conv1 64→64 7×7",
            "block3.conv2 64→64 7×7"
        ]
    );
    let text = serde_json::to_string(&b).unwrap();
    assert_eq!(serde_json::from_str::<Backbone>(&text).unwrap(), b);
    assert!(b.original().slots().is_empty());
    b.original().validate().unwrap();
}

#[test]
fn a_backbone_that_does_not_fit_is_refused_by_layer() {
    let message = |b: Backbone| b.validate().unwrap_err().to_string();
    let good = resnet_small(4, [1, 28, 28], 10).unwrap();
    let mut b = good.clone();
    b.layers[4].op = Op::Slot { index: 0, c_in: 3, c_out: 4, stride: 1 };
    assert!(message(b).contains("layer block1.conv1 (slot): takes 3 channels, its input has 4"));
    let mut b = good.clone();
    b.layers[4].op = Op::Slot { index: 5, c_in: 4, c_out: 4, stride: 1 };
    assert!(message(b).contains("is slot 5 where 0 is next"));
    let mut b = good.clone();
    b.layers[2].inputs = vec![9];
    assert!(message(b).contains("reads layer 9"));
    let mut b = good.clone();
    b.layers.pop();
    assert!(message(b).contains("not 10 logits"));
    assert!(resnet_small(4, [1, 3, 3], 10).unwrap_err().to_string().contains("does not fit"));
    assert!(resnet_small(0, [1, 28, 28], 10).unwrap_err().to_string().contains("width"));
    assert!(Backbone::named("vgg", 4, [1, 28, 28], 10).unwrap_err().to_string().contains("resnet-small"));
}

#[test]
fn fashion_mnist_is_read_plain_and_compressed() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 20, 10);
    let data = source(DataSet::FashionMnist, dir.path()).read().unwrap();
    assert_eq!((data.train.len(), data.test.len(), data.train.shape), (20, 10, [1, 28, 28]));
    assert_eq!(data.train.labels[..3], [0, 7, 4]);
    let (mean, std) = data.train.statistics()[0];
    assert!(mean > 0.02 && mean < 0.05 && std > 0.1 && std < 0.3, "{mean} {std}");
}

#[test]
fn damaged_data_names_the_file_and_the_way_out() {
    let message = |s: Source| s.read().unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    let fashion = || source(DataSet::FashionMnist, dir.path());
    assert!(message(source(DataSet::FashionMnist, &dir.path().join("absent"))).contains("scripts/setup"));
    assert!(message(fashion()).contains("train-images-idx3-ubyte.gz: name a folder that holds it"));
    write_fashion(dir.path(), 20, 10);
    let pictures = dir.path().join("train-images-idx3-ubyte.gz");
    let whole = std::fs::read(&pictures).unwrap();
    std::fs::write(&pictures, &whole[..whole.len() / 2]).unwrap();
    assert!(message(fashion()).contains("train-images-idx3-ubyte.gz is damaged: fetch it again"));
    gz(&pictures, &idx(&[20, 28, 28], &[0; 784]));
    assert!(message(fashion()).contains("cut short or damaged"));
    gz(&pictures, &idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 784]));
    assert!(message(fashion()).contains("cut short or damaged"));
    gz(&pictures, b"hello");
    assert!(message(fashion()).contains("not an idx file"));
    gz(&pictures, &idx(&[1, 28, 28], &[0; 784]));
    assert!(message(fashion()).contains("1 pictures and"));
    write_fashion(dir.path(), 1, 1);
    std::fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[1], &[77])).unwrap();
    assert!(message(fashion()).contains("label 77"));
}

#[test]
fn cifar_10_and_100_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let record = |labels: &[u8], fill: u8| [labels, &[fill; 3072][..]].concat();
    for i in 1..=5u8 {
        std::fs::write(dir.path().join(format!("data_batch_{i}.bin")), [record(&[i], i), record(&[9], 0)].concat()).unwrap();
    }
    std::fs::write(dir.path().join("test_batch.bin"), record(&[3], 9)).unwrap();
    let data = source(DataSet::Cifar10, dir.path()).read().unwrap();
    assert_eq!(data.train.labels, [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
    assert_eq!((data.test.shape, data.test.pixels[0]), ([3, 32, 32], 9));

    std::fs::write(dir.path().join("train.bin"), record(&[1, 99], 7)).unwrap();
    std::fs::write(dir.path().join("test.bin"), record(&[1, 100], 7)).unwrap();
    let message = || source(DataSet::Cifar100, dir.path()).read().unwrap_err().to_string();
    assert!(message().contains("test.bin holds the label 100"));
    std::fs::write(dir.path().join("test.bin"), [0; 100]).unwrap();
    assert!(message().contains("not whole records of 3074"));
    assert!(DataSet::named("mnist").unwrap_err().to_string().contains("fashion-mnist"));
}
