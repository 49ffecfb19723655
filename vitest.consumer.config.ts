import { defineConfig } from "vitest/config";

// What users of the packages get: tarballs that npm installs in a folder of its own. Takes some minutes, most of them npm's.
const conditions = ["@readme-moe/source"];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ["test/consumer/*.consumer.ts"],
    globalSetup: ["test/consumer/install.ts"],
    reporters: ["default", "./test/support/summary-reporter.ts"],
    setupFiles: ["test/support/set-up.ts"],
    pool: "forks",
    execArgv: ["--conditions=@readme-moe/source", "--import", "tsx"],
    maxWorkers: 1,
    testTimeout: 600_000,
    hookTimeout: 900_000,
  },
});
