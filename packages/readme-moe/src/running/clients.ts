// Programs and editors that use a server, and what each needs to find it. A new one is an entry of the table.

/** A model of a running server. */
export interface ServedTo {
  /** Address below which the server has `/v1`. */
  readonly url: string;
  readonly model: string;
  /** Key of the server; any text where it wants none. */
  readonly key: string;
  /** `undefined` while the model is not open. */
  readonly contextTokens: number | undefined;
}

/** A program for the terminal: environment variables and arguments. */
export interface ProgramSetup {
  readonly program: string;
  readonly args: readonly string[];
  readonly variables: Readonly<Record<string, string>>;
  /** Command that installs the program. */
  readonly install: string;
}

/** An editor: what its file of settings has to contain. */
export interface EditorSetup {
  readonly file: string;
  readonly content: string;
}

export interface Client {
  readonly title: string;
  readonly setUp: (served: ServedTo) => ProgramSetup | EditorSetup;
}

/** Longest time that a client waits for a request: a long prompt takes minutes on a CPU. */
const PATIENCE_MS = 3_600_000;

/** Limits an answer so that a conversation keeps most of the context. */
function answerTokens({ contextTokens = 16_384 }: ServedTo): number {
  return Math.min(4096, Math.floor(contextTokens / 4));
}

function json(value: object): string {
  return JSON.stringify(value, null, 2);
}

/** Clients by the names that the command line knows them by. */
export const CLIENTS: Readonly<Record<string, Client>> = {
  "qwen-code": {
    title: "Qwen Code",
    setUp: (served) => ({
      program: "qwen",
      args: ["--auth-type", "openai"],
      variables: {
        OPENAI_API_KEY: served.key,
        OPENAI_BASE_URL: `${served.url}/v1`,
        OPENAI_MODEL: served.model,
        QWEN_CODE_MAX_OUTPUT_TOKENS: `${answerTokens(served)}`,
        // Without limits of time: for the request, the silence before its first token, and the whole answer.
        QWEN_CODE_API_TIMEOUT_MS: "0",
        QWEN_STREAM_IDLE_TIMEOUT_MS: "0",
        QWEN_STREAM_MAX_LIFETIME_MS: "0",
      },
      install: "npm install --global @qwen-code/qwen-code",
    }),
  },
  opencode: {
    title: "OpenCode",
    setUp: (served) => ({
      program: "opencode",
      args: [],
      variables: { OPENCODE_CONFIG_CONTENT: JSON.stringify(openCodeConfig(served)) },
      install: "npm install --global opencode-ai",
    }),
  },
  aider: {
    title: "Aider",
    setUp: ({ url, model, key }) => ({
      program: "aider",
      args: ["--model", `openai/${model}`, "--timeout", `${PATIENCE_MS / 1000}`, "--no-show-model-warnings"],
      variables: { OPENAI_API_KEY: key, OPENAI_API_BASE: `${url}/v1` },
      install: "python -m pip install aider-install && aider-install",
    }),
  },
  "claude-code": {
    title: "Claude Code",
    setUp: (served) => ({
      program: "claude",
      args: [],
      variables: {
        ANTHROPIC_BASE_URL: served.url,
        ANTHROPIC_AUTH_TOKEN: served.key,
        // A key of Anthropic's would go before the token.
        ANTHROPIC_API_KEY: "",
        ANTHROPIC_MODEL: served.model,
        ANTHROPIC_DEFAULT_OPUS_MODEL: served.model,
        ANTHROPIC_DEFAULT_SONNET_MODEL: served.model,
        ANTHROPIC_DEFAULT_HAIKU_MODEL: served.model,
        CLAUDE_CODE_MAX_OUTPUT_TOKENS: `${answerTokens(served)}`,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
        API_TIMEOUT_MS: `${PATIENCE_MS}`,
      },
      install: "npm install --global @anthropic-ai/claude-code",
    }),
  },
  continue: {
    title: "Continue (VS Code, JetBrains)",
    setUp: (served) => ({ file: "~/.continue/config.yaml", content: continueConfig(served) }),
  },
  zed: {
    title: "Zed",
    setUp: (served) => ({ file: "~/.config/zed/settings.json", content: json(zedSettings(served)) }),
  },
  "llama-vscode": {
    title: "llama.vscode (VS Code)",
    setUp: ({ url, model, key }) => ({
      file: "settings.json of VS Code",
      content: json({
        "llama-vscode.endpoint": url,
        "llama-vscode.endpoint_chat": url,
        "llama-vscode.endpoint_tools": url,
        "llama-vscode.ai_model": model,
        "llama-vscode.api_key": key,
      }),
    }),
  },
};

/** Makes the config of OpenCode, which brings the package of `npm` with it. */
function openCodeConfig(served: ServedTo): object {
  const { url, model, key, contextTokens: context } = served;
  const limit = context === undefined ? {} : { limit: { context, output: answerTokens(served) } };
  const name = `readme-moe/${model}`;
  return {
    provider: {
      "readme-moe": {
        npm: "@ai-sdk/openai-compatible",
        name: "readme-moe",
        options: { baseURL: `${url}/v1`, apiKey: key, timeout: false },
        models: { [model]: { name: model, tool_call: true, ...limit } },
      },
    },
    model: name,
    // It writes the titles of conversations.
    small_model: name,
  };
}

/** Makes the config of Continue: its provider for Mistral's API sends a suffix, that for OpenAI's writes marks. */
function continueConfig({ url, model, key, contextTokens }: ServedTo): string {
  const context =
    contextTokens === undefined ? [] : ["    defaultCompletionOptions:", `      contextLength: ${contextTokens}`];
  const models = [
    { provider: "openai", roles: "[chat, edit, apply]", more: ["    capabilities: [tool_use]", ...context] },
    { provider: "mistral", roles: "[autocomplete]", more: [] },
  ].flatMap(({ provider, roles, more }) => [
    `  - name: ${JSON.stringify(provider === "openai" ? model : `${model}, completion`)}`,
    `    provider: ${provider}`,
    `    model: ${JSON.stringify(model)}`,
    `    apiBase: ${url}/v1/`,
    `    apiKey: ${JSON.stringify(key)}`,
    `    roles: ${roles}`,
    ...more,
  ]);
  return ["name: readme-moe", "version: 1.0.0", "schema: v1", "models:", ...models].join("\n");
}

function zedSettings(served: ServedTo): object {
  const { url, model, contextTokens = 16_384 } = served;
  const capabilities = { tools: true, images: false, parallel_tool_calls: false, prompt_cache_key: false };
  const limits = { max_tokens: contextTokens, max_output_tokens: answerTokens(served) };
  return {
    language_models: {
      openai_compatible: {
        "readme-moe": {
          api_url: `${url}/v1`,
          available_models: [{ name: model, display_name: model, ...limits, capabilities }],
        },
      },
    },
    agent: { default_model: { provider: "readme-moe", model } },
    edit_predictions: {
      provider: "open_ai_compatible_api",
      open_ai_compatible_api: {
        api_url: `${url}/v1/completions`,
        model,
        prompt_format: "infer",
        max_output_tokens: 64,
      },
    },
  };
}
