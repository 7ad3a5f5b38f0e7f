//! scratch
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    env_logger::init();
    let scope = tracer::probes::Scope { cgroup: std::env::args().nth(1).unwrap().into() };
    let mut probes =
        tracer::probes::Probes::attach(tracer::probes::Family::Cgroup, &scope, tracer_ebpf::Settings::ISTIO)?;
    let mut ring = probes.take_ring()?;
    eprintln!("attached");
    loop {
        ring.readable().await?;
        while let Some(e) = ring.next() {
            println!("{}", serde_json::to_string(&e?)?);
        }
    }
}
