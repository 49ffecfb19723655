// Customers of the service. A real one reads keys from its store of secrets.

/** A customer: its API key, and the expert that was trained on its texts. */
export interface Customer {
  readonly key: string;
  readonly expert: string;
}

export const CUSTOMERS: Readonly<Record<string, Customer>> = {
  chambers: { key: "sk-chambers", expert: "law" },
  kitchen: { key: "sk-kitchen", expert: "recipes" },
  harbour: { key: "sk-harbour", expert: "sea" },
};

/** Key of the company's own office, whose texts may be of any kind. */
export const OFFICE_KEY = "sk-office";
