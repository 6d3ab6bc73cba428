"""DUPN's LSTM, in which the property of a behaviour opens and closes gates and is no content.

Axis letters: N rows, L steps, E input, P property and H hidden channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PropertyGatedLSTM(nn.Module):
    r"""Run an LSTM whose gates read each step's property, and whose candidate does not.

    .. math::
        i_t, f_t, o_t = \sigma(W_e e_t + W_p p_t + W_h h_{t-1} + b), \qquad
        \tilde c_t = \tanh(W_{ec} e_t + W_{hc} h_{t-1} + b_c), \\
        c_t = f_t \odot c_{t-1} + i_t \odot \tilde c_t, \qquad h_t = o_t \odot \tanh(c_t)

    Ni et al., KDD 2018, section on the property gated LSTM. It is torch's LSTM over :math:`[e_t, p_t]` with
    constant zeros where the candidate would read :math:`p_t`, so torch's fused kernels run it: cuDNN's on a
    GPU, all steps' input products in one multiplication on a CPU. Zeros are no parameters: no training can
    open that path.

    Args:
        in_channels: of the behaviours' own vectors (paper: 124).
        property_channels: of their properties (paper: 48); 0 for none, which is an LSTM.
        hidden_channels: of the state (paper: 128).

    """

    def __init__(self, in_channels: int, property_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.in_channels, self.property_channels = in_channels, property_channels
        self.hidden_channels = hidden_channels
        # in torch's order: input gate, forget gate, candidate, output gate
        self.weight_input = nn.Parameter(torch.empty(4 * hidden_channels, in_channels))
        self.weight_property = nn.Parameter(torch.empty(3 * hidden_channels, property_channels))
        self.weight_hidden = nn.Parameter(torch.empty(4 * hidden_channels, hidden_channels))
        self.bias = nn.Parameter(torch.empty(4 * hidden_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch's LSTM does."""
        bound = self.hidden_channels**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        x: Float[Tensor, "num_rows length in_channels"],
        properties: Float[Tensor, "num_rows length property_channels"],
    ) -> Float[Tensor, "num_rows length hidden_channels"]:
        """Return the hidden state after each step, from a state of zeros.

        Padding behind the steps of a row changes none of them; what is returned there is to be ignored.

        Args:
            x: vectors of the behaviours, in the order of time.
            properties: of the same behaviours.

        Raises:
            ValueError: the vectors or the properties have other widths than the layer.

        """
        # torch.lstm compares no widths, and reads outside of its memory where the sum is another
        found, wanted = (x.shape[-1], properties.shape[-1]), (self.in_channels, self.property_channels)
        if found != wanted:
            raise ValueError(
                f"the layer reads {wanted[0]} channels of behaviours and {wanted[1]} of properties, got "
                f"{found[0]} and {found[1]}: make it of the widths that come, and give behaviours first"
            )
        input_forget, output = self.weight_property.split([2 * self.hidden_channels, self.hidden_channels])
        of_property = torch.cat([input_forget, torch.zeros_like(output), output])
        weight = torch.cat([self.weight_input, of_property], dim=1)
        state = x.new_zeros(1, len(x), self.hidden_channels)
        hidden, _, _ = torch.lstm(
            torch.cat([x, properties], dim=2),
            (state, state),
            [weight, self.weight_hidden, self.bias, torch.zeros_like(self.bias)],
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=True,
        )
        return hidden
