from feedback_workloads.entry import main

if __name__ == "__main__":
    raise SystemExit(main())
