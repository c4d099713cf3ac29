//! One bulk upload: throughput, and what a GiB costs.
use super::{load, median, world::Path_};

/// Bytes of one upload.
const BULK: u64 = 1 << 30;
const ROUNDS: usize = 5;

/// Lets windows grow and pools fill.
pub(crate) async fn warm(path: &Path_) -> anyhow::Result<()> {
    load::upload(path.bulk, BULK / 4).await.map(drop)
}

/// Prints the table.
pub(crate) async fn measure(paths: &[Path_]) -> anyhow::Result<()> {
    let mut seen = vec![Vec::new(); paths.len()];
    for _ in 0..ROUNDS {
        for (path, seen) in paths.iter().zip(&mut seen) {
            let before = path.cpu();
            let took = load::upload(path.bulk, BULK).await?;
            seen.push((BULK as f64 * 8.0 / 1e9 / took.as_secs_f64(), (path.cpu() - before).as_secs_f64()));
        }
    }
    println!("| bulk | Gbit/s | CPU-s/GiB | resident MiB |\n|---|---|---|---|");
    for (path, seen) in paths.iter().zip(&seen) {
        let gigabits = median(seen.iter().map(|(gigabits, _)| *gigabits));
        let cpu = median(seen.iter().map(|(_, cpu)| *cpu));
        println!("| {} | {gigabits:.2} | {cpu:.2} | {} |", path.name, path.resident());
    }
    println!();
    Ok(())
}
