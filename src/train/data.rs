//! Pictures and labels from the user's disk: Fashion-MNIST (idx) and CIFAR-10/100 (binary).

use crate::error::{Context, Result, invalid};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A data set that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSet {
    FashionMnist,
    Cifar10,
    Cifar100,
}

/// Which data, and where: the folder that holds the files, or the default one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub set: DataSet,
    pub folder: Option<PathBuf>,
}

/// Pictures as bytes, `[n, channels, height, width]`, and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Channels, height, width.
    pub shape: [usize; 3],
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

/// The two parts of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub train: Pictures,
    pub test: Pictures,
}

impl Pictures {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Splits off the pictures from `n` on.
    pub fn split_off(&mut self, n: usize) -> Pictures {
        let n = n.min(self.len());
        Pictures { shape: self.shape, pixels: self.pixels.split_off(n * self.stride()), labels: self.labels.split_off(n) }
    }

    /// Bytes of one picture.
    pub fn stride(&self) -> usize {
        self.shape.iter().product()
    }

    /// Mean and standard deviation of each channel, of pixels scaled to 0..1.
    pub fn statistics(&self) -> Vec<(f32, f32)> {
        let plane = self.shape[1] * self.shape[2];
        let (mut sums, mut squares) = (vec![0u64; self.shape[0]], vec![0u64; self.shape[0]]);
        for (i, channel) in self.pixels.chunks_exact(plane.max(1)).enumerate() {
            let c = i % self.shape[0];
            sums[c] += channel.iter().map(|&p| u64::from(p)).sum::<u64>();
            squares[c] += channel.iter().map(|&p| u64::from(p) * u64::from(p)).sum::<u64>();
        }
        let n = (self.len() * plane).max(1) as f64;
        let one = |(&s, &q): (&u64, &u64)| {
            let mean = s as f64 / n;
            let std = (q as f64 / n - mean * mean).max(0.0).sqrt().max(1e-3);
            ((mean / 255.0) as f32, (std / 255.0) as f32)
        };
        sums.iter().zip(&squares).map(one).collect()
    }
}

impl DataSet {
    pub fn name(self) -> &'static str {
        match self {
            DataSet::FashionMnist => "fashion-mnist",
            DataSet::Cifar10 => "cifar-10",
            DataSet::Cifar100 => "cifar-100",
        }
    }

    /// Errors: an unknown name; lists what is known.
    pub fn named(name: &str) -> Result<DataSet> {
        let all = [DataSet::FashionMnist, DataSet::Cifar10, DataSet::Cifar100];
        let found = all.into_iter().find(|s| s.name() == name);
        found.map_or_else(|| invalid(format!("there is no data set `{name}`: use one of fashion-mnist, cifar-10, cifar-100")), Ok)
    }

    /// Channels, height, width.
    pub fn input(self) -> [i64; 3] {
        if self == DataSet::FashionMnist { [1, 28, 28] } else { [3, 32, 32] }
    }

    pub fn n_classes(self) -> i64 {
        if self == DataSet::Cifar100 { 100 } else { 10 }
    }
}

impl Source {
    /// The folder that is read: the one given; else `<name>` in `$SYNTUNE_CACHE`, `$XDG_CACHE_HOME/syntune` or `~/.cache/syntune`;
    /// else Debian's `/usr/share/datasets/fashion-mnist`.
    pub fn resolved(&self) -> PathBuf {
        if let Some(folder) = &self.folder {
            return folder.clone();
        }
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = std::env::var_os("SYNTUNE_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("syntune")))
            .map(|c| c.join(self.set.name()));
        let debian = PathBuf::from("/usr/share/datasets/fashion-mnist");
        match cache {
            Some(c) if c.exists() || self.set != DataSet::FashionMnist || !debian.exists() => c,
            _ => debian,
        }
    }

    /// Reads both parts. Errors name the file and what to do.
    pub fn read(&self) -> Result<Data> {
        let folder = self.resolved();
        if !folder.is_dir() {
            let way_out = match self.set {
                DataSet::FashionMnist => "run scripts/setup, which fetches it, or name the folder that holds its four idx files",
                _ => "unpack the binary version there, or name the folder that holds its .bin files",
            };
            return invalid(format!("no {} in {}: {way_out}", self.set.name(), folder.display()));
        }
        match self.set {
            DataSet::FashionMnist => {
                let part = |prefix: &str| idx_pair(&folder, prefix);
                Ok(Data { train: part("train")?, test: part("t10k")? })
            }
            DataSet::Cifar10 => {
                let files: Vec<PathBuf> = (1..=5).map(|i| folder.join(format!("data_batch_{i}.bin"))).collect();
                Ok(Data { train: cifar(&files, 1, 10)?, test: cifar(&[folder.join("test_batch.bin")], 1, 10)? })
            }
            DataSet::Cifar100 => {
                Ok(Data { train: cifar(&[folder.join("train.bin")], 2, 100)?, test: cifar(&[folder.join("test.bin")], 2, 100)? })
            }
        }
    }
}

/// The largest file that is believed: no known set of small pictures comes near.
const MOST_BYTES: u64 = 1 << 30;

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).context(|| format!("cannot open {}: name a folder that holds it", path.display()))?;
    let mut out = Vec::new();
    let damaged = || format!("{} is damaged: fetch it again", path.display());
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(file).take(MOST_BYTES + 1).read_to_end(&mut out).context(damaged)?;
    } else {
        file.take(MOST_BYTES + 1).read_to_end(&mut out).context(damaged)?;
    }
    if out.len() as u64 > MOST_BYTES {
        return invalid(format!("{} holds more than 1 GiB: it is not a set of small pictures", path.display()));
    }
    Ok(out)
}

/// `name` or `name.gz`, whichever exists; the plain one first.
fn either(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if plain.exists() { plain } else { folder.join(format!("{name}.gz")) }
}

fn idx_pair(folder: &Path, prefix: &str) -> Result<Pictures> {
    let (pictures, labels) =
        (either(folder, &format!("{prefix}-images-idx3-ubyte")), either(folder, &format!("{prefix}-labels-idx1-ubyte")));
    let (sizes, pixels) = idx(&pictures, 3)?;
    let (_, labels_read) = idx(&labels, 1)?;
    if sizes[0] != labels_read.len() {
        return invalid(format!(
            "{} holds {} pictures and {} holds {} labels: fetch both again",
            pictures.display(),
            sizes[0],
            labels.display(),
            labels_read.len()
        ));
    }
    if let Some(wrong) = labels_read.iter().find(|&&l| l > 9) {
        return invalid(format!("{} holds the label {wrong} where 0 to 9 are allowed: fetch it again", labels.display()));
    }
    if sizes[1..] != [28, 28] {
        return invalid(format!(
            "{} holds pictures of {}×{} where 28×28 are expected: name another folder",
            pictures.display(),
            sizes[1],
            sizes[2]
        ));
    }
    if sizes[0] == 0 {
        return invalid(format!("{} holds no pictures: fetch it again", pictures.display()));
    }
    Ok(Pictures { shape: [1, sizes[1], sizes[2]], pixels, labels: labels_read })
}

/// An idx file of unsigned bytes: two zeros, type 8, the number of axes, big-endian sizes, data.
fn idx(path: &Path, n_axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut all = bytes(path)?;
    let head = 4 + 4 * n_axes;
    if all.len() < head || all[..4] != [0, 0, 8, n_axes as u8] {
        return invalid(format!("{} is not an idx file of bytes with {n_axes} axes: fetch it again", path.display()));
    }
    let size = |i: usize| u32::from_be_bytes([all[i], all[i + 1], all[i + 2], all[i + 3]]) as usize;
    let sizes: Vec<usize> = (0..n_axes).map(|a| size(4 + 4 * a)).collect();
    let wanted = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
    if wanted != Some(all.len() - head) {
        return invalid(format!(
            "{} announces {sizes:?} and holds {} bytes: it is cut short or damaged; fetch it again",
            path.display(),
            all.len() - head
        ));
    }
    all.drain(..head);
    Ok((sizes, all))
}

/// Records of `n_labels` label bytes (the last one counts) and 3×32×32 pixels.
fn cifar(files: &[PathBuf], n_labels: usize, n_classes: u8) -> Result<Pictures> {
    const PIXELS: usize = 3 * 32 * 32;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let all = bytes(path)?;
        if all.is_empty() || all.len() % (PIXELS + n_labels) != 0 {
            return invalid(format!(
                "{} holds {} bytes, not whole records of {}: it is cut short or another format; use the binary version",
                path.display(),
                all.len(),
                PIXELS + n_labels
            ));
        }
        for record in all.chunks_exact(PIXELS + n_labels) {
            let label = record[n_labels - 1];
            if label >= n_classes {
                return invalid(format!(
                    "{} holds the label {label} where 0 to {} are allowed: fetch it again",
                    path.display(),
                    n_classes - 1
                ));
            }
            labels.push(label);
            pixels.extend_from_slice(&record[n_labels..]);
        }
    }
    Ok(Pictures { shape: [3, 32, 32], pixels, labels })
}
