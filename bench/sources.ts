/** What Node needs to run a process of the bench, which is run so itself; a test's process may be run otherwise. */
export const SOURCES = ["--conditions=@readme-moe/source", "--import", "tsx"] as const;
