"""The interactive panels: a dial, maps, a playground, an X-ray, the seconds of a clip, live
steering, a ladder, a board, a threshold.

Each is to be displayed as the last value of a cell. Each is a view for the browser (`web`), a small
module that a kernel feeds; on the site a recording does. Slider moves are answered within about two
seconds on two CPU cores with the pocket model, because what does not change is kept: states are
given, a clip is read once (`live.LivePrompt`), an answer is computed once per setting. Longer work
shows a progress bar and can be stopped. Where there is no kernel a still is shown. No panel leaves
a trace in the model.
"""

from sarsteer_lab.course.widgets.board import OverRefusalBoard as over_refusal_board
from sarsteer_lab.course.widgets.geometry import Playground as playground
from sarsteer_lab.course.widgets.maps import GapExplorer as gap_explorer
from sarsteer_lab.course.widgets.maps import SafeSpaceExplorer as safe_space_explorer
from sarsteer_lab.course.widgets.refusal_xray import XRay as xray
from sarsteer_lab.course.widgets.seconds import SecondsPanel as seconds_panel
from sarsteer_lab.course.widgets.steering import DialPanel as dial_panel
from sarsteer_lab.course.widgets.steering import Ladder as ladder
from sarsteer_lab.course.widgets.steering import SteerPanel as steer_panel
from sarsteer_lab.course.widgets.threshold import Threshold as threshold_panel
